#!/usr/bin/env python3
"""Plants one fault after another in the real kernels (kernels/cuda) and tells which of them the op tests notice.

    python3 kernels/emu/mutations/run.py            all of them; a quarter of an hour on two cores
    python3 kernels/emu/mutations/run.py gdn tile   those whose file or words contain one of these
    python3 kernels/emu/mutations/run.py --list
    --jobs=N        so many at once; all cores otherwise

Each *.toml here is a list of faults: `find` occurs once in `file` (or is its `nth` occurrence) and is replaced by `put`; the tests in
`tests` are run on the emulator. `silent` says why no test can notice it: an emulator that runs one thread at a time has no memory order.
Only the changed files are compiled again, and the test program is linked with them in place of its own.

What was planted before into the same sources, with the same tests, is not planted again. Writes what came of each into
kernels/results/mutations.csv, whose other rows stay. Ends with 1 if a fault went unnoticed that has no reason to, or was noticed
although it has one.
"""

import concurrent.futures
import csv
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = HERE.parent.parent
ROOT = KERNELS.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
WORK = TARGET / "mutations"
TABLE = KERNELS / "results" / "mutations.csv"
LINKED = WORK / "linked"
# Seconds that the tests of one fault may take: a loop without an end is a fault that was noticed.
PATIENCE = 600

# Stands in for the linker once: keeps what it was given, since rustc deletes it afterwards.
RECORDER = """#!/usr/bin/env bash
set -e
rm -rf {kept}.new; mkdir -p {kept}.new
i=0
for word in "$@"; do
    case $word in
        *.o) i=$((i + 1)); cp "$word" {kept}.new/$i.o; echo {kept}/$i.o ;;
        *) echo "$word" ;;
    esac
done >{kept}.new/words
rm -rf {kept}; mv {kept}.new {kept}
exec cc "$@"
"""


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", **more)


def die(words):
    sys.exit(f"mutations: {words}")


def faults(chosen):
    """All planted faults, in the order of the files."""
    found = []
    for path in sorted(HERE.glob("*.toml")):
        for fault in tomllib.loads(path.read_text())["fault"]:
            text = fault["file"] + " " + fault["what"]
            if not chosen or any(word in text for word in chosen):
                found.append(fault)
    return found


def mutated(fault):
    """The text of the file with the fault in it."""
    text = (KERNELS / "cuda" / fault["file"]).read_text()
    parts = text.split(fault["find"])
    nth = fault.get("nth", 1)
    if len(parts) == 1 or (len(parts) > 2 and "nth" not in fault) or nth >= len(parts):
        die(f"{fault['file']}: the text of {fault['what']!r} is there {len(parts) - 1} times; bring the list up to date")
    return fault["find"].join(parts[:nth]) + fault["put"] + fault["find"].join(parts[nth:])


def includes(path, seen):
    for name in re.findall(r'^\s*#include "([a-z0-9_]+\.cuh)"', path.read_text(), re.M):
        if name not in seen:
            seen.add(name)
            includes(KERNELS / "cuda" / name, seen)
    return seen


def units(fault):
    """The .cu files that are compiled with the fault in them."""
    if fault["file"].endswith(".cu"):
        return [fault["file"]]
    if "units" in fault:
        return fault["units"]
    return [p.name for p in sorted((KERNELS / "cuda").glob("*.cu")) if fault["file"] in includes(p, set())]


def cost(fault):
    """Bytes of the objects that are compiled again."""
    return sum((PREPARED / name.replace(".cu", ".o")).stat().st_size for name in units(fault))


def key(fault):
    """Names the fault in the sources as they are: kernels, emulator, tests and launchers."""
    known = hashlib.sha256(json.dumps(fault, sort_keys=True).encode())
    for folder, names in (("cuda", "*.cu*"), ("emu", "*.?pp"), ("tests/ops", "*.rs"), ("src/cuda", "**/*.rs")):
        for path in sorted((KERNELS / folder).glob(names)):
            known.update(path.read_bytes())
    return known.hexdigest()


def prepare():
    """Builds the op tests; the folder of the emulator's objects, and the test program's linking."""
    WORK.mkdir(parents=True, exist_ok=True)
    recorder = WORK / "recorder.sh"
    recorder.write_text(RECORDER.format(kept=shlex.quote(str(LINKED))))
    recorder.chmod(0o755)
    if not LINKED.exists():
        (KERNELS / "tests/ops/main.rs").touch()
    build = ["cargo", "rustc", "--locked", "-p", "hearth-kernels", "--test", "ops", "--message-format=json-render-diagnostics"]
    made = subprocess.run(build + ["--", "-C", f"linker={recorder}"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if made.returncode:
        die("the op tests could not be built")
    out = re.findall(r'"reason":"build-script-executed","package_id":"[^"]*hearth-kernels[^"]*".*?"out_dir":"([^"]+)"', made.stdout)
    if not out:
        die("cargo did not name the folder of the kernels")
    return pathlib.Path(out[-1]) / "emulated", (LINKED / "words").read_text().splitlines()


def compiler(objects, unit):
    """How the build compiled a file, up to the file; sooner done and no other in what it computes."""
    text = (objects / f"{unit}.command").read_text()
    program, arguments = text.split(" ", 1)
    words = [json.loads(program)] + json.loads(arguments)
    return words[: words.index("-MMD")] + ["-O1"]


def compile_and_test(fault, objects, words, place):
    """Whether the tests notice it, and what they say."""
    for folder in ("cuda", "emu"):
        shutil.rmtree(place / folder, ignore_errors=True)
        shutil.copytree(KERNELS / folder, place / folder, ignore=shutil.ignore_patterns("mutations"))
    (place / "cuda" / fault["file"]).write_text(mutated(fault))
    made = []
    for name in units(fault):
        unit = name.removesuffix(".cu")
        source = place / f"{unit}.cpp"
        source.write_text(f'#include "{place}/cuda/{name}"\nextern "C" {{ int hearth_emu_unit_{unit} = 1; }}\n')
        to = place / f"{unit}.o"
        ran = run(compiler(objects, unit) + ["-c", str(source), "-o", str(to)])
        if ran.returncode:
            die(f"{fault['file']}, {fault['what']}: the changed file does not compile:\n{ran.stderr}")
        made.append(str(to))
    program = place / "ops"
    linking = list(words)
    linking[linking.index("-o") + 1] = str(program)
    # Before the library that has the file as it is, so that the linker takes none of it.
    ran = run(["cc"] + made + linking)
    if ran.returncode:
        die(f"{fault['what']}: linking failed:\n{ran.stderr}")
    return test(program, fault)


def test(program, fault):
    """Runs the tests up to the first that fails."""
    command = [str(program), "--test-threads=1", "--nocapture"] + fault["tests"]
    # What a fault in a kernel cannot change is computed in one way only.
    here = {**os.environ, "HEARTH_OPS_FEW": "1", "RUST_BACKTRACE": "0"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=KERNELS, env=here)
    late = threading.Timer(PATIENCE, running.kill)
    late.start()
    name, passed, said = "a test", 0, None
    for line in running.stdout:
        began = re.match(r"test (\S+) \.\.\. ", line)
        name = began.group(1) if began else name
        passed += line.rstrip().endswith("ok")
        if "panicked at" in line:
            said = next(running.stdout, "").strip()
            running.kill()
            break
    running.stdout.close()
    code = running.wait()
    in_time = late.is_alive()
    late.cancel()
    if said is not None:
        for known in ("a race on byte", "an atomic on device memory", "a read of what another block", "ILLEGAL_ADDRESS", "TIMEOUT", "MISALIGNED"):
            at = said.find(known)
            said = said[at:] if at >= 0 else said
        # The place in the source is a path of the copy that was faulted: it says nothing to anybody else.
        said = said.split(", at or after")[0]
        return True, f"{name}: {said[:50]}"
    if not in_time:
        return True, f"{name} did not end"
    if code:
        return True, f"{name}: the test program ended with {code}"
    if not passed:
        die(f"{fault['what']}: no test is called {' or '.join(fault['tests'])}")
    return False, ""


def write(planted, results):
    """The table of all faults in the order of the lists: those that were not planted keep the row they had."""
    named = lambda row: tuple(row[:3])
    with TABLE.open(newline="") as file:
        rows = {named(row): row for row in csv.reader(file)}
    for i, fault in enumerate(planted):
        noticed, by = results[i]
        row = [fault["file"], fault["kind"], fault["what"], "yes" if noticed else "no", by or fault.get("silent", "")]
        rows[named(row)] = row
    with TABLE.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "kind", "fault", "noticed", "by"])
        for fault in faults([]):
            name = (fault["file"], fault["kind"], fault["what"])
            table.writerow(rows.get(name, [*name, "not run", ""]))


def main():
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        return print(__doc__)
    jobs = next((int(word.removeprefix("--jobs=")) for word in arguments if word.startswith("--jobs=")), os.cpu_count() or 1)
    chosen = [word for word in arguments if not word.startswith("-")]
    planted = faults(chosen)
    for fault in planted:
        mutated(fault)
    if "--list" in arguments:
        for fault in planted:
            print(f"{fault['file']:<22} {fault['kind']:<10} {fault['what']}")
        return print(f"{len(planted)} faults")
    global PREPARED
    objects, words = prepare()
    PREPARED = objects
    done_before = WORK / "done.json"
    known = json.loads(done_before.read_text()) if done_before.exists() else {}
    results, lock, free = {}, threading.Lock(), [WORK / f"place{i}" for i in range(jobs)]

    def one(i, fault):
        with lock:
            place = free.pop()
        place.mkdir(exist_ok=True)
        began, name = time.monotonic(), key(fault)
        try:
            noticed, by = known[name] if name in known else compile_and_test(fault, objects, words, place)
        finally:
            with lock:
                free.append(place)
        verdict = ("noticed" if noticed else "silent" if "silent" in fault else "UNNOTICED") + (" (has a reason not to be)" if noticed and "silent" in fault else "")
        with lock:
            results[i] = known[name] = (noticed, by)
            done_before.write_text(json.dumps(known))
            print(f"{len(results):>3}/{len(planted)} {verdict:<10} {time.monotonic() - began:4.0f} s  {fault['file']}: {fault['what']}{' | ' + by if by else ''}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(len(free)) as pool:
        # What is compiled soonest comes first, so that a run that is cut short has most.
        order = sorted(enumerate(planted), key=lambda numbered: cost(numbered[1]))
        for done in [pool.submit(one, i, fault) for i, fault in order]:
            done.result()
    write(planted, results)
    noticed = sum(noticed for noticed, _ in results.values())
    wrong = [fault for i, fault in enumerate(planted) if results[i][0] == ("silent" in fault)]
    print(f"{len(planted)} faults planted, {noticed} noticed, {sum('silent' in f for f in planted)} that cannot be, {len(wrong)} not as they should be")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
