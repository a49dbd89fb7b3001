//! Children that do not outlive their parent.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

/// How many of a child's last words are kept.
const KEPT_LINES: usize = 20;

/// Runs "$@" and ends it when standard input closes, which happens when the parent ends, however
/// it ends. Then removes the folder in $GUARD_FOLDER, if any.
const SCRIPT: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
if [ -n "$GUARD_PID" ]; then echo $child > "$GUARD_PID"; fi
(cat <&3 >/dev/null; kill -TERM $child 2>/dev/null; sleep 5; kill -KILL $child 2>/dev/null) >/dev/null 2>&1 &
wait $child
status=$?
if [ -n "$GUARD_FOLDER" ]; then rm -rf "$GUARD_FOLDER"; fi
exit $status
"#;

/// A child that ends with this value or with this process.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    last_words: Arc<Mutex<Vec<String>>>,
}

/// What to run and how.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Additions to its environment.
    pub(crate) environment: Vec<(&'a str, OsString)>,
    /// Removed after its end.
    pub(crate) folder: Option<&'a Path>,
    /// Where its process id is written.
    pub(crate) pid: Option<&'a Path>,
    /// Takes everything it writes; without it the caller reads it.
    pub(crate) log: Option<File>,
}

impl<'a> Order<'a> {
    pub(crate) fn new<S: AsRef<OsStr>>(
        program: &'a Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let arguments = arguments.into_iter().map(|part| part.as_ref().to_owned()).collect();
        Self { program, arguments, environment: Vec::new(), folder: None, pid: None, log: None }
    }
}

impl Guarded {
    /// Starts a child.
    pub(crate) fn spawn(order: Order<'_>) -> eyre::Result<Self> {
        let path = |path: Option<&Path>| path.map_or(OsStr::new(""), Path::as_os_str).to_owned();
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg("guard").arg(order.program).args(order.arguments);
        command.env("GUARD_FOLDER", path(order.folder)).env("GUARD_PID", path(order.pid));
        command.envs(order.environment);
        command.stdin(Stdio::piped());
        match order.log {
            Some(log) => command.stdout(log.try_clone()?).stderr(log),
            None => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        };
        let mut child = command
            .spawn()
            .map_err(|error| eyre::eyre!("cannot start {}: {error}", order.program.display()))?;
        let last_words = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let words = Arc::clone(&last_words);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                    if words.len() == KEPT_LINES {
                        words.remove(0);
                    }
                    words.push(line);
                }
            });
        }
        Ok(Self { child, last_words })
    }

    /// The child's standard output, once; somebody has to read it to its end.
    pub(crate) fn stdout(&mut self) -> eyre::Result<ChildStdout> {
        self.child.stdout.take().ok_or_else(|| eyre::eyre!("the output was taken before"))
    }

    /// Its exit code if it has ended; 128 and the signal's number if a signal ended it.
    pub(crate) fn try_wait(&mut self) -> eyre::Result<Option<i32>> {
        Ok(self.child.try_wait()?.and_then(|status| status.code()))
    }

    /// Waits for its exit code.
    pub(crate) async fn wait(&mut self) -> eyre::Result<i32> {
        // Tokio closes the input of a child that it waits for, which would end it.
        let input = self.child.stdin.take();
        let status = self.child.wait().await;
        drop(input);
        status?.code().ok_or_else(|| eyre::eyre!("the guard was killed"))
    }

    /// Waits for the child's end and tells what it said last.
    pub(crate) async fn last_words(&mut self) -> String {
        let _ = self.wait().await;
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The script sees the end of its input and does the rest.
        drop(self.child.stdin.take());
    }
}
