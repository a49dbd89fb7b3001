//! Reads of many requests in one.
//!
//! Whoever comes while nothing is being read is served at once. Whoever comes while something is waits
//! for the next round, and shares it with everybody who came meanwhile; what several of them ask is
//! asked once. So the busier the edge is, the fewer calls a payment costs, and no timer delays anybody.

use super::{BlockTag, Chain, ChainError, Result, client::refine};
use crate::eip3009::{MULTICALL3, Multicall3};
use alloy::{
    primitives::{Address, Bytes},
    rpc::{
        client::{RpcClient, Waiter},
        json_rpc::RpcError,
    },
    sol_types::SolCall,
    transports::TransportErrorKind,
};
use futures::future::{join_all, try_join_all};
use serde_json::json;
use std::collections::HashMap;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Rounds under way at once: while one is answered, another is asked.
const MAX_ROUNDS: usize = 2;
/// Requests that share a round. Each reads a handful of values at 10,000 gas at the most, and a node
/// gives a call 30 million at the least.
const MAX_REQUESTS: usize = 128;
/// Requests that wait for a round.
const MAX_WAITING: usize = 1_024;

/// Something to be read at the newest block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Read {
    /// What a contract answers.
    View {
        /// The contract.
        of: Address,
        /// The call.
        call: Bytes,
    },
    /// An account's code.
    Code(Address),
}

impl Read {
    /// What a contract answers to a call.
    pub fn view(of: Address, call: &impl SolCall) -> Self {
        Self::View { of, call: call.abi_encode().into() }
    }
}

/// What came of each read, in their order. One that fails leaves the others as they are.
pub type Answers = Vec<Result<Bytes>>;

#[derive(Debug)]
struct Request {
    reads: Vec<Read>,
    answer: oneshot::Sender<Result<Answers>>,
}

/// Reads for everybody in this process. Cheap to clone; the clones share their rounds.
#[derive(Debug, Clone)]
pub struct Reader {
    queue: mpsc::Sender<Request>,
}

impl Reader {
    /// Serves until the last clone is gone.
    pub fn start(chain: Chain) -> Self {
        let (queue, requests) = mpsc::channel(MAX_WAITING);
        tokio::spawn(serve(chain, requests));
        Self { queue }
    }

    /// Reads at the newest block.
    ///
    /// # Errors
    /// When no endpoint answers, or too many wait already. What a contract refuses stands in the
    /// answers.
    pub async fn read(&self, reads: Vec<Read>) -> Result<Answers> {
        let unavailable = |reason: &str| ChainError::Unavailable {
            method: "eth_call",
            reason: reason.to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        self.queue
            .try_send(Request { reads, answer })
            .map_err(|_| unavailable("too many reads wait"))?;
        answered.await.map_err(|_| unavailable("the reads were given up"))?
    }
}

async fn serve(chain: Chain, mut requests: mpsc::Receiver<Request>) {
    let mut rounds = JoinSet::new();
    loop {
        tokio::select! {
            request = requests.recv(), if rounds.len() < MAX_ROUNDS => {
                let Some(request) = request else { break };
                let mut round = vec![request];
                while round.len() < MAX_REQUESTS
                    && let Ok(request) = requests.try_recv()
                {
                    round.push(request);
                }
                rounds.spawn(answer(chain.clone(), round));
            }
            Some(_) = rounds.join_next() => {}
        }
    }
    while rounds.join_next().await.is_some() {}
}

/// Reads for a round and tells everybody their part.
async fn answer(chain: Chain, mut round: Vec<Request>) {
    round.retain(|request| !request.answer.is_closed());
    let mut places = HashMap::new();
    let mut reads = Vec::new();
    for read in round.iter().flat_map(|request| &request.reads) {
        places.entry(read).or_insert_with(|| {
            reads.push(read.clone());
            reads.len().saturating_sub(1)
        });
    }
    let found = chain.read_all(&reads).await;
    let part = |request: &Request| match &found {
        Err(error) => Err(error.clone()),
        Ok(answers) => request
            .reads
            .iter()
            .map(|read| places.get(read).and_then(|place| answers.get(*place)).cloned())
            .collect::<Option<_>>()
            .ok_or(ChainError::Malformed {
                method: "aggregate3",
                reason: "an answer is missing".to_owned(),
            }),
    };
    let parts: Vec<_> = round.iter().map(part).collect();
    drop(places);
    for (request, part) in round.into_iter().zip(parts) {
        // Whoever does not wait any more is not told.
        drop(request.answer.send(part));
    }
}

impl Chain {
    /// Reads everything in one request where the chain has Multicall3, and one by one where it has not,
    /// or where the node does not want it so.
    async fn read_all(&self, reads: &[Read]) -> Result<Answers> {
        if self.has_multicall().await? {
            match self.read_together(reads).await {
                Ok(answers) => return Ok(answers),
                Err(error @ ChainError::Unavailable { .. }) => return Err(error),
                Err(error) => tracing::debug!(%error, "reading one by one"),
            }
        }
        let answers = join_all(reads.iter().map(|read| self.read_one(read))).await;
        let failure = answers.iter().find_map(|answer| match answer {
            Err(error @ ChainError::Unavailable { .. }) => Some(error.clone()),
            _ => None,
        });
        failure.map_or(Ok(answers), Err)
    }

    async fn read_one(&self, read: &Read) -> Result<Bytes> {
        match read {
            Read::View { of, call } => self.eth_call(*of, call, BlockTag::Latest).await,
            Read::Code(account) => self.code(*account).await,
        }
    }

    /// Asks one endpoint after the other.
    async fn read_together(&self, reads: &[Read]) -> Result<Answers> {
        let method = "eth_call";
        let calls = reads.iter().filter_map(|read| match read {
            Read::View { of, call } => {
                Some(Multicall3::Call3 { target: *of, allowFailure: true, callData: call.clone() })
            }
            Read::Code(_) => None,
        });
        let input = Multicall3::aggregate3Call { calls: calls.collect() }.abi_encode();
        let accounts: Vec<Address> = reads
            .iter()
            .filter_map(|read| match read {
                Read::Code(account) => Some(*account),
                Read::View { .. } => None,
            })
            .collect();
        let input = Bytes::from(input);
        let mut failure =
            ChainError::Unavailable { method, reason: "none is configured".to_owned() };
        for endpoint in self.endpoints.iter() {
            match send(&endpoint.client, &input, &accounts).await {
                Ok((views, codes)) => return in_order(reads, &views, codes),
                Err(error) => {
                    let said = refine(method, &endpoint.name, &error);
                    tracing::debug!(method, error = %said, "no answer");
                    // A node that answers, and not to this, can be asked in another way.
                    failure = match (failure, said) {
                        (
                            ChainError::Unavailable { .. },
                            ChainError::Unavailable { reason, .. },
                        ) if is_about_the_batch(&error) => ChainError::Refused { method, reason },
                        (ChainError::Unavailable { .. }, said) => said,
                        (failure, _) => failure,
                    };
                }
            }
        }
        Err(failure)
    }

    /// Asked once per process: a chain does not lose it.
    async fn has_multicall(&self) -> Result<bool> {
        let asked = self.multicall.get_or_try_init(|| async {
            let code = self.code(MULTICALL3).await?;
            Ok(!code.is_empty())
        });
        asked.await.copied()
    }
}

/// The views and the codes, in one HTTP request.
async fn send(
    client: &RpcClient,
    input: &Bytes,
    accounts: &[Address],
) -> Result<(Bytes, Vec<Bytes>), RpcError<TransportErrorKind>> {
    let latest = BlockTag::Latest.to_string();
    let call = (json!({"to": MULTICALL3, "input": input}), &latest);
    if accounts.is_empty() {
        return Ok((client.request("eth_call", call).await?, Vec::new()));
    }
    let mut batch = client.new_batch();
    let views: Waiter<Bytes> = batch.add_call("eth_call", &call)?;
    let mut codes: Vec<Waiter<Bytes>> = Vec::new();
    for account in accounts {
        codes.push(batch.add_call("eth_getCode", &(account, &latest))?);
    }
    batch.send().await?;
    let (views, codes) = tokio::join!(views, try_join_all(codes));
    Ok((views?, codes?))
}

/// Whether a node is there and does not take several requests in one.
fn is_about_the_batch(error: &RpcError<TransportErrorKind>) -> bool {
    match error {
        RpcError::Transport(TransportErrorKind::HttpError(http)) => {
            (400..500).contains(&http.status) && http.status != 429
        }
        RpcError::Transport(TransportErrorKind::MissingBatchResponse(_))
        | RpcError::DeserError { .. }
        | RpcError::NullResp => true,
        _ => false,
    }
}

/// Puts the answers back into the order of the reads.
fn in_order(reads: &[Read], views: &Bytes, codes: Vec<Bytes>) -> Result<Answers> {
    let malformed = |reason: String| ChainError::Malformed {
        method: Multicall3::aggregate3Call::SIGNATURE,
        reason,
    };
    let views = Multicall3::aggregate3Call::abi_decode_returns(views)
        .map_err(|error| malformed(error.to_string()))?;
    let (mut views, mut codes) = (views.into_iter(), codes.into_iter());
    reads
        .iter()
        .map(|read| match read {
            Read::Code(_) => codes.next().map(Ok),
            Read::View { .. } => views.next().map(|view| match view.success {
                true => Ok(view.returnData),
                false => Err(ChainError::Reverted {
                    reason: "a view reverted".to_owned(),
                    data: view.returnData,
                }),
            }),
        })
        .collect::<Option<_>>()
        .ok_or_else(|| malformed("an answer is missing".to_owned()))
}
