//! Compiles `cuda/*.cu` to machine code for the GPUs Hearth knows, and writes `cuda/cubins.rs` to OUT_DIR, which
//! src/cuda/driver.rs includes: the binary ships finished code, and nothing is compiled when it starts.
//!
//! Without nvcc 13 the build goes on and the table is empty. Nothing here needs a GPU, a driver or the CUDA libraries.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ptxas;

/// GB10 (DGX Spark) and H100/H200. The suffix `a` is what has the FP4 tensor instructions, and ties the code to the chip.
const TARGETS: [&str; 2] = ["sm_121a", "sm_90a"];

/// `--fmad=false`: a product and a sum are one rounding only where the source says fmaf, so that a kernel computes the same
/// bits however it is instantiated, and as the emulator does.
const FLAGS: [&str; 6] = ["-cubin", "-std=c++20", "-O3", "--fmad=false", "-Xptxas", "-v"];

/// Compiles at most this many files at the same time; cicc takes up to a gigabyte for a large one.
const PARALLEL: usize = 2;

const NEEDED: u32 = 13;

/// The compiler, or why there is none.
enum Nvcc {
    Found { path: PathBuf, version: String },
    Missing(String),
}

/// Compiles what changed and writes the table.
///
/// # Errors
/// When `HEARTH_NVCC` names something that is no usable nvcc, or nvcc refuses a file: its own words.
pub fn build(sources: &Path, out: &Path) -> Result<(), String> {
    let target_folder = target_folder(out);
    // Afresh: what is no longer a source must not be there either.
    let out = out.join("cuda");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    for variable in ["HEARTH_NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed={}", sources.display());
    let notes = target_folder.join("cuda");
    fs::create_dir_all(&notes).map_err(|e| format!("{}: {e}", notes.display()))?;
    println!("cargo::rerun-if-changed={}", notes.display());

    let mut table = String::new();
    match find(&notes.join("compiler"))? {
        Nvcc::Missing(why) => {
            println!("cargo::warning=no GPU code in this build: {why}");
            let _ =
                writeln!(table, "pub(crate) const COMPILER: std::result::Result<&str, &str> = Err({why:?});");
            table.push_str("pub(crate) static CUBINS: &[Cubin] = &[];\n");
        }
        Nvcc::Found { path, version } => {
            // For tests/cuda_build.rs, which compiles faults of its own.
            println!("cargo::rustc-env=HEARTH_NVCC_USED={}", path.display());
            let files = cu_files(sources)?;
            let compiler = Compiler {
                nvcc: &path,
                version: &version,
                sources,
                cache: &target_folder.join("cuda-cubins"),
            };
            let cubins = compiler.all(&files, &out)?;
            let _ = writeln!(
                table,
                "pub(crate) const COMPILER: std::result::Result<&str, &str> = Ok({version:?});"
            );
            table.push_str("pub(crate) static CUBINS: &[Cubin] = &[\n");
            for cubin in &cubins {
                let names: Vec<&str> = cubin.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
                let _ = writeln!(
                    table,
                    "    Cubin {{ target: {:?}, file: {:?}, code: &Aligned(*include_bytes!({:?})).0, kernels: &{names:?} }},",
                    cubin.target, cubin.file, cubin.path
                );
            }
            table.push_str("];\n");
        }
    }
    let path = out.join("cubins.rs");
    fs::write(&path, table).map_err(|e| format!("{}: {e}", path.display()))
}

/// One compiled file for one target.
struct Compiled {
    target: &'static str,
    file: String,
    path: PathBuf,
    kernels: Vec<ptxas::Kernel>,
}

struct Compiler<'a> {
    nvcc: &'a Path,
    version: &'a str,
    sources: &'a Path,
    /// Code by the hash of all it is made from: shared by the profiles and by builds for other processors.
    cache: &'a Path,
}

impl Compiler<'_> {
    fn all(&self, files: &[PathBuf], out: &Path) -> Result<Vec<Compiled>, String> {
        let jobs: Vec<(&PathBuf, &'static str)> =
            files.iter().flat_map(|file| TARGETS.iter().map(move |target| (file, *target))).collect();
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(jobs.len()) {
                scope.spawn(|| {
                    while let Some((file, target)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = self.one(file, target, out);
                        done.lock().unwrap_or_else(|e| e.into_inner()).push(result);
                    }
                });
            }
        });
        let mut compiled = done
            .into_inner()
            .unwrap_or_else(|e| e.into_inner())
            .into_iter()
            .collect::<Result<Vec<_>, String>>()?;
        compiled.sort_by(|a, b| (a.target, &a.file).cmp(&(b.target, &b.file)));
        Ok(compiled)
    }

    fn one(&self, file: &Path, target: &'static str, out: &Path) -> Result<Compiled, String> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let kept = self.cache.join(format!("{stem}-{target}-{:016x}", self.hash(file, target)?));
        if !kept.join("cubin").is_file() {
            self.compile(file, target, &kept)?;
        }
        let folder = out.join(target);
        let (cubin, log) = (folder.join(format!("{stem}.cubin")), folder.join(format!("{stem}.log")));
        let copy = || {
            fs::create_dir_all(&folder)?;
            fs::copy(kept.join("cubin"), &cubin)?;
            fs::copy(kept.join("log"), &log)?;
            Ok((fs::read_to_string(&log)?, fs::read(&cubin)?))
        };
        let (text, code) = copy().map_err(|e: std::io::Error| format!("{}: {e}", kept.display()))?;
        Ok(Compiled { target, file: stem, path: cubin, kernels: ptxas::kernels(&text, &code) })
    }

    /// Compiles into a folder of its own and moves it into place, so that two builds at once do no harm.
    fn compile(&self, file: &Path, target: &str, kept: &Path) -> Result<(), String> {
        let fresh = kept.with_extension(format!("{}.incomplete", std::process::id()));
        fs::create_dir_all(&fresh).map_err(|e| format!("{}: {e}", fresh.display()))?;
        let ran = Command::new(self.nvcc)
            .args(FLAGS)
            .arg(format!("-arch={target}"))
            .arg("-o")
            .arg(fresh.join("cubin"))
            .arg(file)
            .output()
            .map_err(|e| format!("{}: {e}", self.nvcc.display()))?;
        let log = [ran.stdout, ran.stderr].concat();
        let log = String::from_utf8_lossy(&log);
        if !ran.status.success() {
            let _ = fs::remove_dir_all(&fresh);
            let words: Vec<&str> = log
                .lines()
                .filter(|line| !line.contains("ptxas info") && !line.starts_with("    "))
                .collect();
            return Err(format!("nvcc refused {} for {target}:\n{}", file.display(), words.join("\n")));
        }
        let moved =
            fs::write(fresh.join("log"), log.as_bytes()).and_then(|()| match fs::rename(&fresh, kept) {
                Err(_) if kept.join("cubin").is_file() => fs::remove_dir_all(&fresh),
                other => other,
            });
        moved.map_err(|e| format!("{}: {e}", kept.display()))
    }

    /// Of the compiler, the flags, the file and every file it includes from the same folder.
    fn hash(&self, file: &Path, target: &str) -> Result<u64, String> {
        let mut hasher = DefaultHasher::new();
        (self.version, FLAGS, target).hash(&mut hasher);
        let mut open = vec![file.to_path_buf()];
        let mut seen = open.clone();
        while let Some(path) = open.pop() {
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            (path.file_name(), &text).hash(&mut hasher);
            for name in text.lines().filter_map(included).filter(|name| !name.starts_with("..")) {
                let path = self.sources.join(name);
                if path.is_file() && !seen.contains(&path) {
                    seen.push(path.clone());
                    open.push(path);
                }
            }
        }
        Ok(hasher.finish())
    }
}

/// `name` of a line `#include "name"`.
fn included(line: &str) -> Option<&str> {
    line.trim_start()
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("include")?
        .trim_start()
        .strip_prefix('"')?
        .split('"')
        .next()
}

fn cu_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    files.sort();
    Ok(files)
}

/// The nvcc to use: `HEARTH_NVCC` alone if it is set (`none`: build without), else the first of CUDA_HOME, CUDA_PATH, PATH,
/// /usr/local/cuda and the one installers/setup.sh fetched that is new enough.
fn find(note: &Path) -> Result<Nvcc, String> {
    if let Some(named) = std::env::var_os("HEARTH_NVCC").filter(|value| !value.is_empty()) {
        if named == "none" {
            return Ok(Nvcc::Missing("HEARTH_NVCC=none was set when it was built".into()));
        }
        let path = PathBuf::from(named);
        let version = version(&path).map_err(|why| format!("HEARTH_NVCC={}: {why}", path.display()))?;
        return if new_enough(&version) {
            Ok(Nvcc::Found { path, version })
        } else {
            Err(format!("HEARTH_NVCC={} is nvcc {version}; {NEEDED}.0 or newer is needed", path.display()))
        };
    }
    let from_env = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(|home| Path::new(&home).join("bin/nvcc"));
    let from_path = std::env::var_os("PATH").unwrap_or_default();
    let from_path: Vec<PathBuf> =
        std::env::split_paths(&from_path).map(|folder| folder.join("nvcc")).collect();
    let noted = fs::read_to_string(note).ok().map(|line| PathBuf::from(line.trim()));
    let fetched = noted.into_iter().chain(fetched());
    let mut old = String::new();
    for path in from_env.chain(from_path).chain([PathBuf::from("/usr/local/cuda/bin/nvcc")]).chain(fetched) {
        match version(&path) {
            Ok(version) if new_enough(&version) => return Ok(Nvcc::Found { path, version }),
            Ok(version) if old.is_empty() => old = format!("{} is {version}, but ", path.display()),
            _ => {}
        }
    }
    Ok(Nvcc::Missing(format!(
        "{old}nvcc {NEEDED}.0 or newer was not found when it was built (`bash installers/run.sh` fetches it)"
    )))
}

/// What installers/setup.sh fetched into the cache folder, for whichever target folder: the newest first.
fn fetched() -> Vec<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    let entries = cache.and_then(|cache| fs::read_dir(cache.join("hearth")).ok());
    let folders = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let is_cuda =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-"));
    let mut found: Vec<PathBuf> =
        folders.filter(is_cuda).map(|folder| folder.join("nvidia/cu13/bin/nvcc")).collect();
    found.sort();
    found.reverse();
    found
}

/// `13.0.88` of the nvcc at `path`.
fn version(path: &Path) -> Result<String, String> {
    if !path.is_file() {
        return Err("there is no such file".into());
    }
    let ran = Command::new(path).arg("--version").output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&ran.stdout);
    let found = text.split(", V").nth(1).and_then(|rest| rest.split_whitespace().next());
    found.map(str::to_string).ok_or_else(|| "does not answer --version as nvcc does".into())
}

fn new_enough(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= NEEDED)
}

/// The folder that cargo builds into; OUT_DIR lies some levels below it.
fn target_folder(out: &Path) -> PathBuf {
    let root = out.ancestors().filter(|folder| folder.join(".rustc_info.json").is_file()).last();
    root.unwrap_or(out).to_path_buf()
}
