//! Scoring that is killed, stopped, or interrupted between the names of its outputs ends with the same bytes.

use super::*;

/// The program scoring into all outputs of a name.
pub struct Scoring(Child);

impl Scoring {
    pub fn command(site: &Site, name: &str, args: &[&str]) -> Command {
        let (stream, column) = (format!("stream:{name}"), format!("column:{name}"));
        let lines = format!("jsonl:{}", site.folder.path().join(format!("{name}.jsonl")).display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
        command.arg("score").arg(site.folder.path().join("run")).arg(site.corpus.prefix());
        command.args([
            "--as",
            &stream,
            "--as",
            &column,
            "--as",
            &lines,
            "--save-every",
            "0",
            "--threads",
            "1",
        ]);
        command.args(args).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(site: &Site, name: &str, args: &[&str]) -> Scoring {
        Scoring(Scoring::command(site, name, args).stdout(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Waits until it has noted that it made `most` predictions or more. False if it ended before.
    fn reaches(&mut self, journal: &Path, most: u64) -> bool {
        loop {
            if made(journal).is_some_and(|made| made >= most) {
                return true;
            }
            if self.0.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn made(journal: &Path) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(journal).ok()?).ok()?;
    value["tally"]["predictions"].as_u64()
}

#[test]
fn killed_and_stopped_again_and_again_it_ends_with_the_same_bytes() {
    let site = Site::new("f32");
    // Windows that overlap much take long enough to be caught.
    let slow = ["--stride", "4"];
    let calm = Scoring::start(&site, "calm", &slow);
    assert!(calm.wait().success());
    let want = site.bytes("calm");
    let journal: PathBuf = site.folder.path().join("web.stream.rough.journal");
    let total = predictions(&site.corpus);
    let (mut kills, mut stops) = (0, 0);
    for round in 0..7 {
        // A resume may have other ranks and threads.
        let ranks = (1 + round % 3).to_string();
        // Past what the last attempt noted: until then the program may not listen to signals yet.
        let next = (total * (round + 1) / 9).max(made(&journal).unwrap_or(0) + 1);
        let mut process = Scoring::start(&site, "rough", &[&slow[..], &["--ranks", &ranks]].concat());
        if !process.reaches(&journal, next) {
            break;
        }
        let before = made(&journal).unwrap();
        process.signal(if round % 2 == 0 { libc::SIGKILL } else { libc::SIGTERM });
        let status = process.wait();
        match round % 2 {
            0 if status.signal() == Some(libc::SIGKILL) => kills += 1,
            1 if status.code() == Some(75) => stops += 1,
            _ => {
                assert!(status.success(), "{status}");
                break;
            }
        }
        assert!(!site.folder.path().join("web.stream.rough").exists(), "unfinished files have no names");
        assert!(made(&journal).unwrap() >= before);
    }
    println!("{kills} kills, {stops} stops");
    assert!(kills >= 2 && stops >= 2, "{kills} kills, {stops} stops");
    if !site.folder.path().join("web.stream.rough").exists() {
        assert!(Scoring::start(&site, "rough", &slow).wait().success());
    }
    assert!(site.bytes("rough") == want);
    let left: Vec<_> = std::fs::read_dir(site.folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    let temporary =
        |p: &&PathBuf| [".tmp", ".journal", ".lock"].iter().any(|end| p.to_str().unwrap().ends_with(end));
    assert_eq!(left.iter().find(temporary), None);
}

#[test]
fn a_kill_between_the_names_of_outputs_is_mended() {
    let site = Site::new("f32");
    // Windows that overlap much take long enough to be caught.
    let slow = ["--stride", "4"];
    assert!(Scoring::start(&site, "calm", &slow).wait().success());
    let want = site.bytes("calm");
    // Every moment at which some outputs have their names and others do not, made by hand from the last journal.
    let folder = |end: &str| site.folder.path().join(end);
    let mut process = Scoring::start(&site, "cut", &slow);
    assert!(process.reaches(&folder("web.stream.cut.journal"), 1));
    process.signal(libc::SIGKILL);
    process.wait();
    let files = ["web.stream.cut", "web.col.cut", "web.col.cut_sum", "web.col.cut_count", "cut.jsonl"];
    let text = std::fs::read_to_string(folder("web.stream.cut.journal")).unwrap();
    let mut note: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(Scoring::start(&site, "cut", &slow).wait().success());
    assert!(site.bytes("cut") == want);
    let bytes = std::fs::metadata(folder("cut.jsonl")).unwrap().len();
    note["tally"]["place"] = serde_json::json!({ "document": site.corpus.documents(), "made": 0 });
    note["tally"]["finishing"] = true.into();
    note["tally"]["lines"] = serde_json::json!([0, 0, bytes]);
    for named in 0..=files.len() {
        for file in &files[named..] {
            std::fs::rename(folder(file), folder(&format!("{file}.tmp"))).unwrap();
        }
        std::fs::write(folder("web.stream.cut.journal"), note.to_string()).unwrap();
        assert!(Scoring::start(&site, "cut", &slow).wait().success(), "{named} of {} named", files.len());
        assert!(site.bytes("cut") == want, "{named} of {} named", files.len());
    }
}

#[test]
fn a_journal_of_another_scoring_is_not_continued() {
    let site = Site::new("f32");
    site.scored("calm", |_| {}, &launch(1, 1));
    let journal = site.folder.path().join("web.stream.nll.journal");
    let mut process = Scoring::start(&site, "nll", &["--stride", "4"]);
    assert!(process.reaches(&journal, 1));
    process.signal(libc::SIGKILL);
    process.wait();
    site.scored("nll", |_| {}, &launch(1, 1));
    assert!(site.bytes("nll") == site.bytes("calm"));
    std::fs::write(&journal, "{").unwrap();
    let error = score(&site.job(&site.outputs("nll")), &launch(1, 1)).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
}
