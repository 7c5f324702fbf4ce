//! The simulated camera at work: one shot after another into the daemon's frame socket, at a steady rate.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc::UnboundedSender;

use crate::cli::feed::pace;
use crate::cli::png;
use crate::stream::camera::Camera;
use crate::stream::client::{Address, Answer, Client, ClientError};
use crate::stream::wire::Reply;

/// What became of a shot.
#[derive(Debug)]
pub(super) enum Developed {
    /// The daemon's id of a shot.
    Taken {
        id: u64,
        shot: u64,
    },
    Refused {
        shot: u64,
        why: String,
    },
}

/// How often, and how long apart, the socket is tried: it appears a little after the API.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Films the script once. A daemon that falls behind slows the camera down, since only so many frames may be unanswered.
pub(super) async fn film(
    camera: Camera,
    inlet: Address,
    rate: f64,
    developed: UnboundedSender<Developed>,
) -> anyhow::Result<()> {
    let mut client = connect(&inlet).await?;
    let mut pace = pace(rate);
    for number in 0..camera.script().frames() {
        pace.tick().await;
        let picture = png::encode(&camera.shot(number)).context("encode a picture")?;
        // The client numbers frames from 0, as the camera does its shots.
        let sent = client.send(picture.into(), None, None).await?;
        if !tell(&developed, sent.replies) {
            return Ok(());
        }
    }
    tell(&developed, client.finish().await?);
    Ok(())
}

async fn connect(inlet: &Address) -> Result<Client, ClientError> {
    for _ in 1..TRIES {
        if let Ok(client) = Client::connect(inlet).await {
            return Ok(client);
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    Client::connect(inlet).await
}

/// Whether somebody still listens.
fn tell(developed: &UnboundedSender<Developed>, replies: Vec<Answer>) -> bool {
    replies.into_iter().all(|(shot, reply)| {
        let outcome = match reply {
            Reply::Accepted { id, .. } | Reply::Duplicate { id } => Developed::Taken { id: id.0, shot },
            Reply::Refused(notice) => Developed::Refused { shot, why: format!("{} ({})", notice.detail, notice.code) },
        };
        developed.send(outcome).is_ok()
    })
}
