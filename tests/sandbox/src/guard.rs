//! Children that do not outlive their parent.

use std::{
    ffi::OsStr,
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

impl Guarded {
    /// Starts `program`. `folder` is removed after its end.
    pub(crate) fn spawn<S: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        environment: &[(&str, &OsStr)],
        folder: Option<&Path>,
    ) -> eyre::Result<Self> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg("guard").arg(program).args(arguments);
        command.env("GUARD_FOLDER", folder.map_or(OsStr::new(""), Path::as_os_str));
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| eyre::eyre!("cannot start {}: {error}", program.display()))?;
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

    /// Waits for the child's end and tells what it said last.
    pub(crate) async fn last_words(&mut self) -> String {
        let _ = self.child.wait().await;
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The script sees the end of its input and does the rest.
        drop(self.child.stdin.take());
    }
}
