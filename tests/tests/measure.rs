//! `kernels/measure.sh`, tried with small shapes: whoever has a GPU for some minutes should not spend them on a mistyped option.

use std::{fs, process::Command};

use hearth_tests::house::program;

#[test]
fn every_step_of_the_measuring_script_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels/measure.sh");
    let out = folder.path().join("out");
    let ran = Command::new("bash")
        .arg(script)
        .arg(program())
        .arg(&out)
        .arg("--quick")
        .output()
        .expect("bash runs it");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    for step in ["short", "untuned", "widths", "save", "load"] {
        assert!(said.lines().any(|line| line.starts_with("ok") && line.contains(step)), "{step}: {said}");
    }
    for sweep in ["short", "untuned", "widths"] {
        let csv = fs::read_to_string(out.join(format!("quick-{sweep}.csv"))).expect("it was written");
        assert!(csv.lines().any(|line| line.contains(",decode,")), "{csv}");
    }
    assert!(!out.join("checkpoint").exists(), "the checkpoint is gone");

    let broken = Command::new("bash").arg(script).arg("/bin/false").arg(&out).arg("--quick").output();
    assert_eq!(broken.expect("bash runs it").status.code(), Some(5), "each step that fails counts");
}
