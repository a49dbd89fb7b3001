//! Every number that the daemon shows at `GET /metrics`. docs/metrics.md has the same list.
//!
//! Names begin with `keeper_`, or with `x402_` where the specification gives them, and end with their
//! unit; labels have few values, each from a closed list: never a hash, a payment or a text of an
//! error.

use ::metrics::Label;
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Seconds, for what KMS takes: some 100 ms, and 5 s at the most.
const SIGNING: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0];
/// Seconds, for what lies between a pull and its record or split: the bounds of the specification and
/// what is around them.
const SETTLING: &[f64] = &[1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 30.0, 60.0, 90.0, 300.0];
/// How often what histograms have seen is counted up, whether or not somebody looks.
const UPKEEP: Duration = Duration::from_secs(5);

/// Declares every metric once: its constant, and its line in [`ALL`].
macro_rules! registry {
    ($($metric:ident: $kind:ident $(($buckets:expr))? =
        $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $metric: $kind<{ count(&[$($label),*]) }> =
                $kind { name: $name, labels: [$($label),*] };
        )+
        /// All of them.
        pub const ALL: &[Description] = &[$(
            Description {
                name: $name,
                kind: Kind::$kind $(($buckets))?,
                labels: &[$($label),*],
                help: $help,
            },
        )+];
    };
}

registry! {
    BUILD_INFO: Gauge = "keeper_build_info" ["version"]
        "The program that runs; always 1.";
    FACILITATOR_REQUESTS_TOTAL: Counter = "keeper_facilitator_requests_total" ["endpoint", "outcome"]
        "Payments that callers of the facilitator API had verified or settled, by what came of them.";
    KMS_SIGN_SECONDS: Histogram(SIGNING) = "keeper_kms_sign_seconds" []
        "How long KMS took to sign or to fail, all attempts together.";
    KMS_ERRORS_TOTAL: Counter = "keeper_kms_errors_total" ["kind"]
        "Signatures and public keys that KMS did not give.";
    KMS_REFUSED_TOTAL: Counter = "keeper_kms_refused_total" ["reason"]
        "Transactions that were not given to the key, because it may not sign them or not so often.";
    IS_LEADER: Gauge = "keeper_is_leader" ["chain_id"]
        "1 while this process runs the services of a chain, 0 while another does.";
    LEASE_EPOCH: Gauge = "keeper_lease_epoch" ["chain_id"]
        "How often the services of a chain have changed hands.";
    REORGS_TOTAL: Counter = "keeper_reorgs_total" ["chain_id"]
        "Heads whose parent was not what was seen before.";
    REORG_DEPTH_BLOCKS: Gauge = "keeper_reorg_depth_blocks" ["chain_id"]
        "Blocks that the last reorg took.";
    HEAD_BLOCK: Gauge = "keeper_head_block" ["chain_id"]
        "Number of the newest block.";
    HEAD_SEEN_TIMESTAMP_SECONDS: Gauge = "keeper_head_seen_timestamp_seconds" ["chain_id"]
        "When the head last moved, in seconds since 1970.";
    HEAD_STREAM_UP: Gauge = "keeper_head_stream_up" ["chain_id"]
        "1 while a websocket announces new heads, 0 while the head is only polled.";
    STREAM_BLOCK: Gauge = "keeper_stream_block" ["splitter", "stream"]
        "Last block that a stream of a Splitter is done with.";
    STREAM_LAG_BLOCKS: Gauge = "keeper_stream_lag_blocks" ["splitter", "stream"]
        "How far that is behind the head.";
    REPLAY_SKIPPED_TOTAL: Counter = "x402_replay_skipped_total" []
        "Ranges that were read again and held nothing new.";
    ATTEMPTS_TOTAL: Counter = "keeper_attempts_total" ["signer", "kind"]
        "Envelopes that were signed and stored.";
    SEND_RESULTS_TOTAL: Counter = "keeper_send_results_total" ["rpc", "class"]
        "What nodes said to transactions that they were given.";
    TRANSACTIONS_TOTAL: Counter = "keeper_transactions_total" ["signer", "state"]
        "Transactions that came into a state.";
    PENDING_TRANSACTIONS: Gauge = "keeper_pending_transactions" ["signer"]
        "Transactions that are signed and not mined.";
    PARKED_NONCES: Gauge = "keeper_parked_nonces" ["signer"]
        "Account nonces that are gone, and nobody knows to what.";
    LATE_INTENTS_TOTAL: Counter = "keeper_late_intents_total" ["kind"]
        "Records and splits that were flagged as late.";
    RECORD_LATENCY_SECONDS: Histogram(SETTLING) = "keeper_record_settlement_latency_seconds" []
        "Time between the blocks of a pull and of its record.";
    RECORD_LATENCY_SECONDS_MAX: Gauge = "keeper_record_settlement_latency_seconds_max" []
        "The longest of it since the process started.";
    RECORD_LANDED_TOTAL: Counter = "keeper_record_settlement_landed_total" []
        "Payments whose record is on the chain.";
    LATENCY_CHECK_TOTAL: Counter = "x402_latency_check_total" ["result", "stage"]
        "Records and splits by whether they came within six seconds, or two blocks, of their pull; a split within twice that.";
    SPLIT_LATENCY_SECONDS: Histogram(SETTLING) = "keeper_split_settlement_latency_seconds" []
        "Time between the blocks of a pull and of the split that covers it.";
    I7_CHECK_TOTAL: Counter = "x402_invariant_i7_check_total" ["result"]
        "Payments by whether amount and payee were those of their Transfer.";
    SETTLER_CHECK_TOTAL: Counter = "x402_authorized_settler_check_total" ["result"]
        "Starts by whether the key in KMS was the contract's.";
    SIGNER_BALANCE_WEI: Gauge = "keeper_signer_balance_wei" ["signer"]
        "What a signer has.";
    SPEND_DAY_WEI: Gauge = "keeper_spend_day_wei" ["signer"]
        "What a signer's transactions of 24 hours cost, or can cost.";
    SPEND_DAY_LIMIT_WEI: Gauge = "keeper_spend_day_limit_wei" ["signer"]
        "What they may cost.";
    PAUSED: Gauge = "keeper_paused" ["signer", "reason"]
        "1 while a signer begins nothing new for this reason, 0 otherwise.";
    ATTRIBUTION_DRIFT_TOTAL: Counter = "x402_reconciler_attribution_drift_total" []
        "Checks that found chain, journal and settlements apart for the second time; must stay 0.";
    BOOKS_CHECKS_TOTAL: Counter = "keeper_books_checks_total" ["result"]
        "Checks of journal, settlements, logs and contracts against one another.";
    SEALED_EVENTS: Gauge = "keeper_sealed_events" []
        "Events under a seal.";
}

const fn count(labels: &[&str]) -> usize {
    labels.len()
}

/// What a metric is.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Kinds of metrics.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often a value was at most that of each bucket.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Its word for Prometheus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A number that only grows.
#[derive(Debug, Clone, Copy)]
pub struct Counter<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

impl<const N: usize> Counter<N> {
    /// Adds to it. The labels' values stand in the order of the registry.
    pub fn add(&self, more: u64, values: [&str; N]) {
        ::metrics::counter!(self.name, labels(self.labels, values)).increment(more);
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Copy)]
pub struct Gauge<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

impl<const N: usize> Gauge<N> {
    /// Sets it. The labels' values stand in the order of the registry.
    pub fn set(&self, value: u64, values: [&str; N]) {
        #[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing but floats")]
        let value = value as f64;
        ::metrics::gauge!(self.name, labels(self.labels, values)).set(value);
    }
}

/// How long something takes.
#[derive(Debug, Clone, Copy)]
pub struct Histogram<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

impl<const N: usize> Histogram<N> {
    /// One more of it. The labels' values stand in the order of the registry.
    pub fn record(&self, took: Duration, values: [&str; N]) {
        ::metrics::histogram!(self.name, labels(self.labels, values)).record(took);
    }
}

fn labels<const N: usize>(names: [&'static str; N], values: [&str; N]) -> Vec<Label> {
    names.into_iter().zip(values).map(|(name, value)| Label::new(name, value.to_owned())).collect()
}

/// What was counted so far.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// In the text format of Prometheus.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps what nobody looks at from piling up, until `stop`.
    pub async fn keep_up(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.handle.run_upkeep();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(UPKEEP) => {}
            }
        }
    }
}

/// Counts from now on, for the whole process. Before it, and without it, nothing is counted.
///
/// # Errors
/// When it was installed before.
pub fn install() -> Result<Metrics, BuildError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder)?;
    describe();
    BUILD_INFO.set(1, [env!("CARGO_PKG_VERSION")]);
    Ok(Metrics { handle })
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    Ok(builder.build_recorder())
}

fn describe() {
    for Description { name, kind, help, .. } in ALL.iter().copied() {
        match kind {
            Kind::Counter => ::metrics::describe_counter!(name, help),
            Kind::Gauge => ::metrics::describe_gauge!(name, help),
            Kind::Histogram(_) => ::metrics::describe_histogram!(name, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What Prometheus would read after `count` was done.
    fn scraped(count: impl FnOnce()) -> String {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            count();
        });
        handle.render()
    }

    #[test]
    fn names_say_what_is_measured_in_which_unit() {
        let mut names = BTreeSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            let words =
                name.strip_prefix("keeper_").or_else(|| name.strip_prefix("x402_")).unwrap();
            let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
            assert!(words.bytes().all(is_plain), "{name}");
            let is_total = name.ends_with("_total");
            assert_eq!(is_total, matches!(metric.kind, Kind::Counter), "{name}");
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(name.ends_with("_seconds"), "{name}");
                assert!(buckets.is_sorted() && !buckets.is_empty(), "{name}");
            }
            let labels: BTreeSet<_> = metric.labels.iter().collect();
            assert_eq!(labels.len(), metric.labels.len(), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{name}");
        }
    }

    #[test]
    fn what_is_counted_is_shown() {
        let text = scraped(|| {
            KMS_ERRORS_TOTAL.add(2, ["throttled"]);
            KMS_ERRORS_TOTAL.add(1, ["throttled"]);
            KMS_ERRORS_TOTAL.add(1, ["timeout"]);
            KMS_SIGN_SECONDS.record(Duration::from_millis(120), []);
            KMS_SIGN_SECONDS.record(Duration::from_millis(4_900), []);
            BUILD_INFO.set(1, ["0.1.0"]);
        });
        for line in [
            "# HELP keeper_kms_errors_total Signatures and public keys that KMS did not give.",
            "# TYPE keeper_kms_errors_total counter",
            "keeper_kms_errors_total{kind=\"throttled\"} 3",
            "keeper_kms_errors_total{kind=\"timeout\"} 1",
            "# TYPE keeper_kms_sign_seconds histogram",
            "keeper_kms_sign_seconds_bucket{le=\"0.1\"} 0",
            "keeper_kms_sign_seconds_bucket{le=\"0.15\"} 1",
            "keeper_kms_sign_seconds_bucket{le=\"5\"} 2",
            "keeper_kms_sign_seconds_count 2",
            "keeper_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
