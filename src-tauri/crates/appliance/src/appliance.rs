//! The appliance as a whole: takes the settings folder, opens the port, starts the supervisor and the board, serves until told to
//! end. Called by `hearth up`.

use std::{
    future::Future,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{Router, http::Method, http::Uri, middleware};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use crate::{
    ApplianceError, Places,
    bench::Benchmarks,
    board::{Board, BoardOptions},
    chats::Chats,
    control::{
        Control,
        doctor::Surgery,
        guard,
        types::{Endpoint, Notice, Settings},
    },
    doctor::Doctor,
    gateway::{Gateway, Limits},
    history::History,
    hub::Hub,
    last_good,
    lock::SettingsLock,
    pages::Pages,
    roof,
    supervisor::{EngineView, Order, Policy, Supervisor, SupervisorOptions},
    token::Token,
};

/// Open connections get this long to finish after the engine is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What `hearth up` was asked for.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// Port instead of the one of the settings; 0: any free one.
    pub port: Option<u16>,
    /// Start the engine at once, or not, whatever the settings say.
    pub start: Option<bool>,
    /// Take the profile that served last instead of the settings' one, if there is one.
    pub last_good: bool,
    /// Model instead of the one of the settings' profile.
    pub model: Option<String>,
    /// The `hearth` program; null: this one.
    pub program: Option<PathBuf>,
}

/// A running appliance.
pub struct Appliance {
    listener: TcpListener,
    router: Router,
    supervisor: Supervisor,
    ending: watch::Sender<bool>,
    address: SocketAddr,
    token: Token,
    _lock: SettingsLock,
}

impl Appliance {
    /// Takes the settings folder and the port. From here on the port answers once `run` is called.
    pub async fn start(places: Places, options: UpOptions) -> Result<Appliance, ApplianceError> {
        places.prepare()?;
        let mut settings = Settings::read(&places.settings())?;
        let mut lock = SettingsLock::take(&places.config)?;
        let (token, replaced) = Token::load(&places.token())?;
        let program = match options.program {
            Some(program) => program,
            None => std::env::current_exe()
                .map_err(|cause| ApplianceError::Spawn { program: PathBuf::from("hearth"), cause })?,
        };
        let (listener, address) = listen(&settings.host, options.port.unwrap_or(settings.port)).await?;
        let url = format!("http://{address}");
        lock.tell(Some(url.clone())).map_err(|cause| ApplianceError::File {
            path: places.config.join("appliance.lock"),
            doing: "written",
            cause,
        })?;
        if let Some(profile) = last_good::read(&places.last_good()).filter(|_| options.last_good) {
            settings.profile = profile;
        }
        if let Some(model) = options.model {
            settings.profile.model = model;
            settings.profile.check()?;
        }

        let (history, moved) = History::open(&places.state.join("history.db"));
        let history = Arc::new(history);
        let mut notices: Vec<Notice> = moved.into_iter().collect();
        let (chats, moved) = Chats::open(&places.state.join("chats.db"));
        notices.extend(moved);
        if replaced {
            let text = "Other users could read the control token, so a new one was made.";
            notices.push(Notice::new("token_replaced", "warning", text));
        }
        let (tell_ended, ended) = mpsc::channel(1024);
        let supervisor = Supervisor::start(
            SupervisorOptions {
                program: program.clone(),
                places: places.clone(),
                profile: settings.profile.clone(),
                policy: Policy::default(),
            },
            tell_ended,
        );
        let start_now = options.start.unwrap_or(settings.start_engine);
        let profile = settings.profile.clone();
        let settings = Arc::new(watch::Sender::new(settings));
        let roof = roof::watch(program.clone(), places.state.clone());
        let (benchmarks, moved) =
            Benchmarks::open(&places.state.join("benchmarks.db"), supervisor.clone(), roof.clone());
        notices.extend(moved);
        let board = Board::start(BoardOptions {
            supervisor: supervisor.clone(),
            history,
            settings: settings.subscribe(),
            ended,
            endpoint: Endpoint { url: format!("{url}/v1"), port: address.port() },
            notices,
            roof: roof.clone(),
        });
        tokio::spawn(follow_back(supervisor.view(), settings.clone(), places.settings()));
        let (ending, end) = watch::channel(false);
        let control = Control {
            board,
            chats,
            benchmarks,
            supervisor: supervisor.clone(),
            hub: Hub::start(&places),
            outlines: places.state.join("outlines"),
            settings,
            settings_file: places.settings(),
            token: token.clone(),
            roof,
            surgery: Surgery::new(Doctor { places: places.clone(), program }),
            ending: end,
        };
        let pages = Pages::find();
        let outside = Gateway::new(supervisor.clone(), Limits::default())
            .routes()
            .fallback(move |method: Method, uri: Uri| pages.serve(method, uri))
            .layer(middleware::from_fn(guard::names));
        let router = control.routes().merge(outside);
        if start_now {
            supervisor.order(Order::Start(profile)).await;
        }
        Ok(Appliance { listener, router, supervisor, ending, address, token, _lock: lock })
    }

    /// `http://127.0.0.1:8000`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The page with its token, for the person at this machine. The part after `#` is never sent over the network.
    pub fn page(&self) -> String {
        format!("{}/#token={}", self.url(), self.token.reveal())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `end` resolves; then the engine finishes what runs, and everything is closed. `hurry` cuts that short.
    pub async fn run(
        self,
        end: impl Future<Output = ()> + Send + 'static,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), ApplianceError> {
        let Appliance { listener, router, supervisor, ending, address, .. } = self;
        let mut closed = ending.subscribe();
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            let _ = closed.wait_for(|ending| *ending).await;
        });
        let mut server = tokio::spawn(server.into_future());
        let broken = |cause| ApplianceError::Listen { address: address.to_string(), cause };
        tokio::select! {
            done = &mut server => return done.unwrap_or(Ok(())).map_err(broken),
            () = end => {}
        }
        // The port stays open while running requests are finished.
        tokio::select! {
            () = supervisor.shutdown() => {}
            () = hurry => {
                supervisor.order(Order::Stop { now: true }).await;
                supervisor.shutdown().await;
            }
        }
        ending.send_replace(true);
        if tokio::time::timeout(LAST_WORDS, &mut server).await.is_err() {
            server.abort();
        }
        Ok(())
    }
}

/// Takes the profile of the settings back when what it says could not be started and the one before runs again.
async fn follow_back(
    mut view: watch::Receiver<EngineView>,
    settings: Arc<watch::Sender<Settings>>,
    file: PathBuf,
) {
    while view.changed().await.is_ok() {
        let (running, failed) = {
            let view = view.borrow_and_update();
            (view.profile.clone(), view.returned.as_ref().map(|returned| returned.0.clone()))
        };
        if failed.is_some_and(|failed| settings.borrow().profile == failed) {
            let before = Settings { profile: running, ..settings.borrow().clone() };
            if let Err(error) = before.write(&file) {
                tracing::warn!(%error, "the settings still name what could not be started");
            }
            settings.send_replace(before);
        }
    }
}

/// Opens the port; if it is taken, says by whom.
async fn listen(host: &str, port: u16) -> Result<(TcpListener, SocketAddr), ApplianceError> {
    let ip = host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let address = SocketAddr::new(ip, port);
    let failed = |cause: std::io::Error| match cause.kind() {
        ErrorKind::AddrInUse => ApplianceError::PortInUse { address, holder: holder(ip, port) },
        _ => ApplianceError::Listen { address: address.to_string(), cause },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn holder(ip: IpAddr, port: u16) -> String {
    match hearth_monitor::holder_of(ip, port) {
        Some(hearth_monitor::Holder { pid: Some(pid), name }) => {
            format!("{} (pid {pid})", name.unwrap_or_else(|| "a process".into()))
        }
        Some(_) => "a process of another user".into(),
        None => "another process".into(),
    }
}
