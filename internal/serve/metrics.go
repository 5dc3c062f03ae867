package serve

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// metrics are what Prometheus reads. Names follow llama.cpp's server where it has the same figure.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	first     *prometheus.HistogramVec
	prompt    *prometheus.CounterVec
	cached    *prometheus.CounterVec
	predicted *prometheus.CounterVec
	queue     *prometheus.HistogramVec
	proposed  *prometheus.CounterVec
	accepted  *prometheus.CounterVec
}

func newMetrics(m *models) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ellm_gpu", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, from float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "ellm_gpu", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(from, 2, 14)}, labels)
	}
	x := &metrics{
		registry:  prometheus.NewRegistry(),
		requests:  counter("http_requests_total", "Requests by route and status.", "route", "status"),
		latency:   histogram("http_request_duration_seconds", "Time from a request to the end of its answer.", 0.002, "route"),
		first:     histogram("time_to_first_token_seconds", "Time from the prompt to the first text.", 0.005, "model"),
		queue:     histogram("queue_seconds", "Time that a sequence waited for others.", 0.0005, "model"),
		prompt:    counter("prompt_tokens_total", "Prompt tokens, those found in the cache included.", "model"),
		cached:    counter("prompt_tokens_cached_total", "Prompt tokens that the prefix cache already held.", "model"),
		predicted: counter("tokens_predicted_total", "Generated tokens.", "model"),
		proposed:  counter("speculation_proposed_tokens_total", "Tokens proposed by speculation.", "model"),
		accepted:  counter("speculation_accepted_tokens_total", "Proposed tokens that the model agreed with.", "model"),
	}
	x.registry.MustRegister(x.requests, x.latency, x.first, x.queue, x.prompt, x.cached, x.predicted, x.proposed, x.accepted,
		&engineMetrics{m}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return x
}

func (x *metrics) handler() http.Handler {
	return promhttp.HandlerFor(x.registry, promhttp.HandlerOpts{})
}

// request counts a request by its route: paths of strangers must not become labels.
func (x *metrics) request(r *http.Request, status int, took time.Duration) {
	route := r.Pattern
	if route == "" {
		route = "none"
	}
	x.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	x.latency.WithLabelValues(route).Observe(took.Seconds())
}

func (x *metrics) firstToken(model string, d time.Duration) {
	x.first.WithLabelValues(model).Observe(d.Seconds())
}

func (x *metrics) generated(model string, r *engine.Result) {
	x.queue.WithLabelValues(model).Observe(r.QueueTime.Seconds())
	x.prompt.WithLabelValues(model).Add(float64(r.PromptTokens))
	x.cached.WithLabelValues(model).Add(float64(r.CachedTokens))
	x.predicted.WithLabelValues(model).Add(float64(len(r.Tokens)))
	x.proposed.WithLabelValues(model).Add(float64(r.Speculation.Proposed))
	x.accepted.WithLabelValues(model).Add(float64(r.Speculation.Accepted))
}

// engineMetrics reads the engines' own figures when it is asked.
type engineMetrics struct{ m *models }

var (
	descProcessing = engineDesc("requests_processing", "Sequences that are computed.")
	descDeferred   = engineDesc("requests_deferred", "Sequences that wait.")
	descPages      = engineDesc("kv_cache_pages", "Pages of the cache.")
	descUsed       = engineDesc("kv_cache_pages_used", "Pages of the cache that running sequences have.")
	descMemory     = engineDesc("model_memory_bytes", "Memory of weights, cache and scratch.")
)

func engineDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("ellm_gpu_"+name, help, []string{"model"}, nil)
}

// Describe implements prometheus.Collector.
func (e *engineMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descProcessing, descDeferred, descPages, descUsed, descMemory} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (e *engineMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, m := range e.m.running() {
		st := m.model.Engine.Stats()
		for _, v := range []struct {
			d *prometheus.Desc
			v float64
		}{
			{descProcessing, float64(st.Running)}, {descDeferred, float64(st.Waiting)}, {descPages, float64(st.Pages)},
			{descUsed, float64(st.PagesUsed)}, {descMemory, float64(m.model.Engine.Memory().Total())},
		} {
			ch <- prometheus.MustNewConstMetric(v.d, prometheus.GaugeValue, v.v, m.name)
		}
	}
}
