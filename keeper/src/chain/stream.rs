//! New heads as a node announces them over a websocket. An announcement only has the head looked at
//! sooner: what is true is read, and polling goes on whether or not anything is announced.

use super::{Heads, client::describe};
use crate::metrics::HEAD_STREAM_UP;
use alloy::{
    primitives::B256,
    rpc::{client::RpcClient, json_rpc::RpcError},
    transports::{TransportErrorKind, ws::WsConnect},
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Between two connections: doubling from here …
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// … up to here.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// How long a connection and its subscription may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Has `heads` look whenever the node announces a block, until `stop`. A stream that announces
/// nothing for `max_silence` is given up and asked for anew: a connection may be open and dead.
pub async fn follow_stream(
    chain_id: u64,
    url: Url,
    heads: Heads,
    max_silence: Duration,
    stop: CancellationToken,
) {
    let label = chain_id.to_string();
    let mut delay = FIRST_DELAY;
    loop {
        let mut announced = false;
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listen(&url, &heads, max_silence, || {
                if !announced {
                    announced = true;
                    HEAD_STREAM_UP.set(1, [&label]);
                }
            }) => ended,
        };
        HEAD_STREAM_UP.set(0, [&label]);
        if announced {
            delay = FIRST_DELAY;
        }
        tracing::warn!(
            chain_id, host = url.host_str(), reason = ended, retry_in = ?delay,
            "the stream of new heads has ended; the head is polled"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        delay = MAX_DELAY.min(delay.saturating_mul(2));
    }
}

/// Listens on one connection and tells why that ended.
async fn listen(
    url: &Url,
    heads: &Heads,
    max_silence: Duration,
    mut announced: impl FnMut(),
) -> String {
    let subscribed = async {
        // One attempt; the waiting is ours.
        let connect = WsConnect::new(url.as_str()).with_max_retries(1);
        let client = RpcClient::connect_pubsub(connect).await?;
        let id = client.request::<_, B256>("eth_subscribe", ("newHeads",)).await?;
        let Some(frontend) = client.pubsub_frontend() else {
            return Err(RpcError::UnsupportedFeature("subscriptions"));
        };
        let subscription = frontend.get_subscription(id).await?;
        Ok::<_, RpcError<TransportErrorKind>>((client, subscription))
    };
    let (_client, mut subscription) = match tokio::time::timeout(CONNECT_TIMEOUT, subscribed).await
    {
        Ok(Ok(subscribed)) => subscribed,
        Ok(Err(error)) => return describe(&error),
        Err(_) => return "no subscription in time".to_owned(),
    };
    loop {
        match tokio::time::timeout(max_silence, subscription.recv()).await {
            // What it says is not believed: the follower reads the head.
            Ok(Ok(_)) => {
                announced();
                heads.nudge();
            }
            Ok(Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => heads.nudge(),
            Ok(Err(tokio::sync::broadcast::error::RecvError::Closed)) => {
                return "the connection is closed".to_owned();
            }
            Err(_) => return format!("no head was announced for {max_silence:?}"),
        }
    }
}
