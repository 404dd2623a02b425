//! The metrics of requests: how many, and how long they took.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use actix_web::http::{Method, StatusCode};
use metrics::{Counter, Histogram};

thread_local! {
    /// A worker's own handles, because finding one by its labels costs more than counting. Routes, methods and statuses are few.
    static HANDLES: RefCell<HashMap<String, Vec<Handles>>> = RefCell::default();
}

/// The handles of one route, method and status.
struct Handles {
    method: &'static str,
    status: StatusCode,
    requests: Counter,
    seconds: Histogram,
}

impl Handles {
    fn of(route: &str, method: &'static str, status: StatusCode) -> Self {
        let labels = [
            ("method", method.to_owned()),
            ("route", route.to_owned()),
            ("status", status.as_u16().to_string()),
        ];
        Handles {
            method,
            status,
            requests: metrics::counter!("http_requests_total", &labels),
            seconds: metrics::histogram!("http_request_duration_seconds", &labels[..2]),
        }
    }

    fn record(&self, elapsed: Duration) {
        self.requests.increment(1);
        self.seconds.record(elapsed.as_secs_f64());
    }
}

/// Counts a request. `route` is the template and not the path: ids in labels would create a time series each.
pub fn record(route: Option<&str>, method: &Method, status: StatusCode, elapsed: Duration) {
    let (route, method) = (route.unwrap_or("none"), known_method(method));
    HANDLES.with_borrow_mut(|by_route| {
        if !by_route.contains_key(route) {
            by_route.insert(route.to_owned(), Vec::new());
        }
        let Some(of_route) = by_route.get_mut(route) else {
            return;
        };
        let is_it = |handles: &Handles| handles.status == status && handles.method == method;
        match of_route.iter().find(|handles| is_it(handles)) {
            Some(handles) => handles.record(elapsed),
            None => {
                let handles = Handles::of(route, method, status);
                handles.record(elapsed);
                of_route.push(handles);
            }
        }
    });
}

/// A client can send any token as a method; only the usual ones become labels.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn every_request_is_counted_under_its_own_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let made_up = Method::from_bytes(b"BREW").expect("a method");
        metrics::with_local_recorder(&recorder, || {
            let (product, tea) = (Some("/products/{sku}"), Some("/tea"));
            for (route, method, status, times) in [
                (product, Method::GET, StatusCode::OK, 3),
                (product, Method::GET, StatusCode::NOT_FOUND, 2),
                (product, Method::PATCH, StatusCode::OK, 1),
                (tea, made_up, StatusCode::OK, 1),
                (None, Method::GET, StatusCode::NOT_FOUND, 1),
            ] {
                (0..times).for_each(|_| record(route, &method, status, Duration::from_millis(5)));
            }
        });
        let text = recorder.handle().render();
        for (method, route, status, count) in [
            ("GET", "/products/{sku}", "200", 3),
            ("GET", "/products/{sku}", "404", 2),
            ("PATCH", "/products/{sku}", "200", 1),
            ("other", "/tea", "200", 1),
            ("GET", "none", "404", 1),
        ] {
            let line =
                format!("http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        let seconds = "http_request_duration_seconds_count{method=\"GET\",route=\"/products/{sku}\"} 5\n";
        assert!(text.contains(seconds), "{seconds}{text}");
    }
}
