//! Processes that write until they end, seen from the process that starts them.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use crate::writer::{ARGUMENT, SAID_LEN, Said, Task};

/// A writer that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Writing {
    child: Child,
    said: Option<JoinHandle<Vec<Said>>>,
    errors: Option<JoinHandle<String>>,
}

/// How a writer ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) said: Vec<Said>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) status: ExitStatus,
    /// What it wrote to standard error.
    pub(crate) errors: String,
}

impl Writing {
    pub(crate) fn start(task: &Task) -> Writing {
        let program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(program)
            .arg(ARGUMENT)
            .args(task.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process that writes");
        let out = child.stdout.take().expect("piped");
        let mut err = child.stderr.take().expect("piped");
        Writing {
            child,
            said: Some(thread::spawn(move || listen(out))),
            errors: Some(thread::spawn(move || {
                let mut text = String::new();
                err.read_to_string(&mut text).ok();
                text
            })),
        }
    }

    /// True once it has ended by itself.
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_some()
    }

    /// SIGKILL, unless it has ended.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killing it");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let status = self.child.wait().expect("its end");
        let said = self.said.take().map(|said| said.join().unwrap());
        let errors = self.errors.take().map(|errors| errors.join().unwrap());
        Ended {
            said: said.unwrap_or_default(),
            signal: status.signal(),
            status,
            errors: errors.unwrap_or_default(),
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Everything up to the end of the pipe. The last message may be cut short.
fn listen(mut out: ChildStdout) -> Vec<Said> {
    let mut bytes = Vec::new();
    out.read_to_end(&mut bytes).expect("the pipe");
    let whole = bytes.chunks_exact(SAID_LEN);
    whole
        .map(|chunk| Said::parse(chunk.try_into().unwrap()))
        .collect()
}
