//! Compiles `emu/*.cpp` and every kernel of `cuda/*.cu` for the CPU into one static library, and the emulator's own test
//! kernels into another, which only tests/emulator.rs links. A file is compiled again only when it, what it includes, or
//! the command changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Compiles at most this many files at the same time.
const PARALLEL: usize = 2;

const FLAGS: [&str; 9] = [
    "-std=c++20",
    "-DHEARTH_EMULATED=1",
    // As nvcc with --fmad=false: one rounding only where the source says fmaf.
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
];

/// The emulator itself: what a matrix unit does in one step is the bulk of the work of a test.
const EMULATOR: [&str; 1] = ["-O3"];

/// Kernels, as far as the compiler knows these: what C++ leaves undefined fails in emu/sanitizer.cpp, every access to
/// memory calls emu/watch.cpp, and a variable that nobody set holds a pattern (GCC 12).
const KERNELS: [&str; 4] = [
    "-fsanitize=alignment,bounds,shift,integer-divide-by-zero",
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-ftrivial-auto-var-init=pattern",
];

/// Compiles what changed and tells cargo what to link.
///
/// # Errors
/// When there is no C++ compiler, or it refuses a file: its own words.
pub fn build(crate_folder: &Path, out: &Path) -> Result<(), String> {
    let out = out.join("emulated");
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    for folder in ["emu", "cuda"] {
        println!("cargo::rerun-if-changed={}", crate_folder.join(folder).display());
    }
    let compiler = Compiler::new(crate_folder)?;

    let kernels = sources(&crate_folder.join("cuda"), "cu")?;
    let mut files: Vec<Source> = sources(&crate_folder.join("emu"), "cpp")?
        .into_iter()
        .map(|path| Source { path, flags: &EMULATOR })
        .collect();
    let mut table = String::new();
    for kernel in &kernels {
        let stem = stem(kernel);
        let unit = format!(
            "#include \"{}\"\nextern \"C\" {{ int hearth_emu_unit_{stem} = 1; }}\n",
            kernel.display()
        );
        files.push(Source { path: write(&out.join(format!("{stem}.cpp")), &unit)?, flags: &KERNELS });
        table.push_str(&format!("extern \"C\" int hearth_emu_unit_{stem};\n"));
    }
    // A linker takes from a library only the objects that somebody names: this names all of them.
    table.push_str("extern \"C\" int hearth_emu_units() { return 0");
    for kernel in &kernels {
        table.push_str(&format!(" + hearth_emu_unit_{}", stem(kernel)));
    }
    table.push_str("; }\n");
    files.push(Source { path: write(&out.join("units.cpp"), &table)?, flags: &[] });
    compiler.library("hearth_emulated", &files, &out)?;

    let mut checks = String::new();
    for folder in ["emu/checks", "emu/faults"] {
        for file in sources(&crate_folder.join(folder), "cu")? {
            checks.push_str(&format!("#include \"{}\"\n", file.display()));
        }
    }
    checks.push_str("extern \"C\" int hearth_emu_checks() { return 1; }\n");
    let checks = Source { path: write(&out.join("checks.cpp"), &checks)?, flags: &KERNELS };
    compiler.library("hearth_emulated_checks", &[checks], &out)?;

    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=hearth_emulated");
    println!("cargo::rustc-link-lib=stdc++");
    Ok(())
}

/// A file to compile, and the flags that only it gets.
struct Source {
    path: PathBuf,
    flags: &'static [&'static str],
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files of a folder with this extension, sorted; none if there is no folder.
fn sources(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a file unless it says that already, so that its time changes only with its text.
fn write(path: &Path, text: &str) -> Result<PathBuf, String> {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(path.to_path_buf())
}

struct Compiler {
    tool: cc::Tool,
    archiver: PathBuf,
    /// Flags that this compiler does not know.
    unknown: Vec<&'static str>,
}

impl Compiler {
    fn new(crate_folder: &Path) -> Result<Compiler, String> {
        let mut build = cc::Build::new();
        build.cpp(true).opt_level(2).debug(false).warnings(false);
        for flag in FLAGS {
            build.flag(flag);
        }
        // Messages name cuda/x.cu, on whatever machine this is built.
        build.flag(format!("-ffile-prefix-map={}/=", crate_folder.display()));
        // GCC 12 sees overlaps in std::string that are not there.
        build.flag_if_supported("-Wno-restrict");
        // No branch targets are marked in the fiber switch, so none may be asked for.
        build.flag_if_supported("-fcf-protection=none");
        let unknown =
            KERNELS.into_iter().filter(|flag| !build.is_flag_supported(flag).unwrap_or(false)).collect();
        let tool =
            build.try_get_compiler().map_err(|e| format!("no C++ compiler for the CUDA emulator: {e}"))?;
        let archiver =
            build.try_get_archiver().map_err(|e| format!("no archiver for the CUDA emulator: {e}"))?;
        Ok(Compiler { tool, archiver: archiver.get_program().into(), unknown })
    }

    /// Compiles `files` and puts their objects into `out/libNAME.a`.
    fn library(&self, name: &str, files: &[Source], out: &Path) -> Result<(), String> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(files.len()) {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = self.object(file, out);
                        done.lock().unwrap_or_else(|e| e.into_inner()).push(result);
                    }
                });
            }
        });
        let results = done.into_inner().unwrap_or_else(|e| e.into_inner());
        let mut objects = results.into_iter().collect::<Result<Vec<_>, String>>()?;
        objects.sort();
        let library = out.join(format!("lib{name}.a"));
        // A library keeps members of files that are gone unless it is made anew.
        let _ = fs::remove_file(&library);
        let mut command = Command::new(&self.archiver);
        command.arg("crs").arg(&library).args(&objects);
        run(&mut command, &library).map(drop)
    }

    /// The object of one file, compiled if it is out of date.
    fn object(&self, file: &Source, out: &Path) -> Result<PathBuf, String> {
        let stem = stem(&file.path);
        let object = out.join(format!("{stem}.o"));
        let (includes, known) = (out.join(format!("{stem}.d")), out.join(format!("{stem}.command")));
        let mut command = self.tool.to_command();
        command
            .args(file.flags.iter().filter(|flag| !self.unknown.contains(*flag)))
            .arg("-g0")
            .arg("-MMD")
            .arg("-MF")
            .arg(&includes);
        command.arg("-c").arg(&file.path).arg("-o").arg(&object);
        // Not the environment, of which every shell has another one.
        let words = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        if fs::read_to_string(&known).ok().as_ref() == Some(&words) && up_to_date(&object, &includes) {
            return Ok(object);
        }
        let _ = fs::remove_file(&known);
        let said = run(&mut command, &file.path)?;
        for line in said.lines().filter(|line| line.contains("warning:")) {
            println!("cargo::warning={line}");
        }
        write(&known, &words)?;
        Ok(object)
    }
}

/// True if the object is newer than all that the compiler read for it (a list in the form of make).
fn up_to_date(object: &Path, includes: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let (Some(made), Ok(list)) = (time(object), fs::read_to_string(includes)) else { return false };
    let Some((_, files)) = list.split_once(": ") else { return false };
    let newer = |file: &str| time(Path::new(file)).unwrap_or_else(SystemTime::now) >= made;
    !files.split_whitespace().filter(|word| *word != "\\").any(newer)
}

/// Runs a program; what it said, or its words if it failed.
fn run(command: &mut Command, about: &Path) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("the CUDA emulator needs `{program}`: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{program} refuses {}:\n{said}", about.display()))
    }
}
