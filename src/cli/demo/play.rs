//! The show: the camera films, and whoever asks the daemon tells what it answers.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::film::{Developed, film};
use super::story::{Shots, Story, progress};
use crate::cli::client::{Address as ApiAddress, Client, ClientError};
use crate::cli::png;
use crate::daemon::answers::{Neighbours, Status};
use crate::serve::TaskList;
use crate::stream::camera::Camera;
use crate::stream::client::Address;

/// Between two looks at the tasks.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines about loss and buffer.
const PROGRESS: Duration = Duration::from_secs(10);
/// Between two queries.
const QUERY: Duration = Duration::from_secs(7);
/// After the last frame, for what is still to be found and published.
const AFTERMATH: Duration = Duration::from_secs(12);
/// Neighbours of one query.
const NEIGHBOURS: usize = 10;

/// What is needed for a show.
pub(super) struct Show {
    pub(super) camera: Camera,
    pub(super) rate: f64,
    /// Where the daemon takes frames.
    pub(super) inlet: Address,
    /// Where it answers.
    pub(super) api: SocketAddr,
    /// The daemon is no more.
    pub(super) ended: CancellationToken,
}

impl Show {
    /// Plays the script once, then waits until stopped.
    pub(super) fn play(&self, out: &mut dyn Write, stop: &CancellationToken) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the show")?;
        runtime.block_on(async {
            let (sender, developed) = unbounded_channel();
            let camera = film(self.camera.clone(), self.inlet.clone(), self.rate, sender);
            let mut teller = Teller::new(self, developed, out);
            let show = async {
                let filming = tokio::spawn(camera);
                teller.until_filmed().await?;
                filming.await.context("the camera broke down")??;
                teller.end().await
            };
            tokio::select! {
                told = show => told?,
                () = stop.cancelled() => return Ok(()),
                () = self.ended.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.ended.cancelled() => {}
            }
            Ok(())
        })
    }
}

struct Teller<'a> {
    camera: Camera,
    client: Client,
    api: SocketAddr,
    developed: UnboundedReceiver<Developed>,
    story: Story,
    shots: Shots,
    /// Shots that the daemon has answered.
    answered: u64,
    refused: u64,
    began: Instant,
    next_progress: Instant,
    next_query: Instant,
    out: &'a mut dyn Write,
}

impl<'a> Teller<'a> {
    fn new(show: &Show, developed: UnboundedReceiver<Developed>, out: &'a mut dyn Write) -> Self {
        let now = Instant::now();
        Self {
            camera: show.camera.clone(),
            client: Client::new(ApiAddress::Tcp(show.api.to_string())),
            api: show.api,
            developed,
            story: Story::new(show.camera.clone()),
            shots: Shots::new(),
            answered: 0,
            refused: 0,
            began: now,
            next_progress: now + PROGRESS / 2,
            next_query: now + QUERY,
            out,
        }
    }

    async fn until_filmed(&mut self) -> anyhow::Result<()> {
        write!(self.out, "{}\n  time   frame  what happens\n", self.story.truth())?;
        while self.collect()? {
            self.look().await?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Takes in what the camera has heard; whether it still films.
    fn collect(&mut self) -> anyhow::Result<bool> {
        use tokio::sync::mpsc::error::TryRecvError;
        loop {
            match self.developed.try_recv() {
                Ok(Developed::Taken { id, shot }) => {
                    self.shots.insert(id, shot);
                    self.answered = self.answered.max(shot + 1);
                }
                Ok(Developed::Refused { shot, why }) => {
                    self.refused += 1;
                    self.say(&format!("REFUSED   frame {}: {why}", shot + 1))?;
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    /// One look at the daemon, and a line for whatever is new.
    async fn look(&mut self) -> anyhow::Result<()> {
        let tasks: Option<TaskList> = self.ask(async |client| client.get("/v1/tasks?limit=1000").await).await?;
        for line in self.story.tasks(self.answered, &tasks.map(|list| list.tasks).unwrap_or_default(), &self.shots) {
            self.say(&line)?;
        }
        let now = Instant::now();
        if now < self.next_progress && now < self.next_query {
            return Ok(());
        }
        let Some(status): Option<Status> = self.ask(async |client| client.get("/v1/status").await).await? else {
            return Ok(());
        };
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS;
            self.say(&progress(&status))?;
        }
        if now >= self.next_query && status.encoder.is_some() {
            self.next_query = now + QUERY;
            self.query().await?;
        }
        Ok(())
    }

    /// Asks about a picture that the camera has not taken: the next time round the script shows the same products anew.
    async fn query(&mut self) -> anyhow::Result<()> {
        let Some(latest) = self.answered.checked_sub(1) else { return Ok(()) };
        let shot = self.camera.shot(latest + self.camera.script().frames());
        let picture = Bytes::from(png::encode(&shot).context("encode a picture")?);
        let path = format!("/v1/query?k={NEIGHBOURS}");
        let answer: Option<Neighbours> = self.ask(async |client| client.post_image(&path, picture).await).await?;
        if let Some(answer) = answer.filter(|answer| !answer.neighbours.is_empty()) {
            let line = self.story.answer(shot.truth.product, &answer, &self.shots);
            self.say(&line)?;
        }
        Ok(())
    }

    /// What the daemon answers. That it cannot answer now is told, and the show goes on; that it is gone ends it.
    async fn ask<T, F>(&mut self, question: impl FnOnce(Client) -> F) -> anyhow::Result<Option<T>>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        match question(self.client.clone()).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error @ (ClientError::Problem(_) | ClientError::TimedOut { .. })) => {
                self.say(&format!("no answer  {error}"))?;
                Ok(None)
            }
            Err(error) => Err(error.classed()),
        }
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + AFTERMATH;
        while Instant::now() < until {
            self.look().await?;
            tokio::time::sleep(LOOK).await;
        }
        let forgetting: Option<Value> = self.ask(async |client| client.get("/v1/forgetting").await).await?;
        writeln!(self.out, "\nThe script is over. What lumpd found without being told anything:\n")?;
        write!(self.out, "{}", self.story.summary())?;
        writeln!(self.out, "  memory     {}", remembered(forgetting.as_ref()))?;
        writeln!(self.out, "  frames     {} taken in, {} refused\n", self.shots.len(), self.refused)?;
        let api = self.api;
        writeln!(self.out, "It goes on rehearsing from its replay buffer, and answers. In another terminal:")?;
        for verb in ["status", "tasks", "forgetting", "query PICTURE"] {
            writeln!(self.out, "  lumpd {verb} --api {api}")?;
        }
        writeln!(self.out, "\nCtrl-C ends it.")?;
        self.out.flush()?;
        Ok(())
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let seconds = self.began.elapsed().as_secs();
        writeln!(self.out, "  {}:{:02} {:>7}  {line}", seconds / 60, seconds % 60, self.answered)?;
        // Whoever watches should not have to wait for a full buffer.
        self.out.flush()?;
        Ok(())
    }
}

/// How much of the past tasks' neighbourhoods is left, as the daemon's report has it.
fn remembered(forgetting: Option<&Value>) -> String {
    let percent = |value: &Value| Some(format!("{:.0} %", 100.0 * value.as_f64()?));
    let Some(mean) = forgetting.and_then(|report| percent(report.get("mean_retained")?)) else {
        return "not measured yet: no past task has probes in two versions of the encoder".into();
    };
    let tasks = forgetting.and_then(|report| report.get("tasks")?.as_array()).into_iter().flatten();
    let each: Vec<String> = tasks
        .filter_map(|task| Some(format!("task {}: {}", task.get("task")?, percent(task.get("retained")?)?)))
        .collect();
    format!("{mean} of what was known at the end of past tasks is still there ({})", each.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_remembered_is_told_in_percent_and_what_is_undefined_is_left_out() {
        let report =
            json!({"mean_retained": 0.914, "tasks": [{"task": 1, "retained": 0.914}, {"task": 2, "retained": null}]});
        let text = remembered(Some(&report));
        assert_eq!(text, "91 % of what was known at the end of past tasks is still there (task 1: 91 %)");
        assert!(remembered(Some(&json!({"mean_retained": null, "tasks": []}))).starts_with("not measured"));
        assert!(remembered(None).starts_with("not measured"));
    }
}
