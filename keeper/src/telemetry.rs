//! Spans for OpenTelemetry: one per call and one per settlement, sent by OTLP over HTTP where an
//! operator says so. Off, nothing is made and nothing is sent.
//!
//! The trace is the caller's, where it names one (W3C `traceparent`); its id stands on the
//! settlement's row, so that a payment and its spans find each other.

use axum::http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;
use tracing::{Metadata, Span, Subscriber, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};
use url::Url;
use uuid::Uuid;

/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether anybody wants spans.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// What sends the spans; it must be shut down, or the last ones are lost.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// From now on spans are made and sent to a collector.
    ///
    /// # Errors
    /// When the exporter cannot be built.
    pub fn start(endpoint: &Url, runtime: &Handle) -> Result<Self, ExporterBuildError> {
        let mut endpoint = endpoint.clone();
        if endpoint.path() == "/" {
            endpoint.set_path("/v1/traces");
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(endpoint)
            .with_timeout(TIMEOUT)
            .build()?;
        let exporter = OnRuntime { exporter: Arc::new(exporter), runtime: runtime.clone() };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name("x402-keeper").build())
            .build();
        IS_ON.store(true, Ordering::Relaxed);
        Ok(Self { provider })
    }

    /// The layer that turns our spans into OpenTelemetry's. Lines of the log stay in the log.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let is_ours =
            |metadata: &Metadata<'_>| metadata.is_span() && metadata.target() == module_path!();
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("keeper"))
            .with_filter(filter_fn(is_ours))
    }

    /// Sends what is left.
    pub fn shut_down(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::debug!(%error, "telemetry: the last spans were not sent");
        }
    }
}

/// The batches come from a thread that has no runtime; the HTTP client needs one.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let sent = self.runtime.spawn(async move { exporter.export(batch).await });
        sent.await.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())))
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// The headers of a request, as a propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// The span of a call; of the caller's trace, where it names one.
pub fn call_span(headers: &HeaderMap) -> Span {
    if !IS_ON.load(Ordering::Relaxed) {
        return Span::none();
    }
    let span = tracing::info_span!(
        "invoke",
        otel.kind = "server",
        settlement = Empty,
        http.response.status_code = Empty
    );
    let parent =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    if parent.span().span_context().is_valid()
        && let Err(error) = span.set_parent(parent)
    {
        tracing::debug!(%error, "telemetry: a caller's trace was not taken over");
    }
    span
}

/// The span of a settlement, from its reservation until its call is answered; the call's span names it,
/// too.
pub fn settlement_span(settlement: Uuid) -> Span {
    if !IS_ON.load(Ordering::Relaxed) {
        return Span::none();
    }
    Span::current().record("settlement", tracing::field::display(settlement));
    tracing::info_span!("settlement", settlement = %settlement)
}

/// Id of the trace that this is done for: 32 hexadecimal digits.
pub fn trace_id() -> Option<String> {
    if !IS_ON.load(Ordering::Relaxed) {
        return None;
    }
    let context = Span::current().context();
    let span = context.span();
    let known = span.span_context();
    known.is_valid().then(|| known.trace_id().to_string())
}
