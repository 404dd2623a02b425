//! The statements and transactions that a shop counts itself, from its metrics.

/// What a shop has sent to its databases so far. Binaries of before these metrics have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    pub statements: f64,
    pub transactions: f64,
}

impl Counts {
    /// The sums over all modules in a page of metrics.
    pub fn read(metrics: &str) -> Option<Counts> {
        Some(Counts {
            statements: sum(metrics, "banyan_database_statements_total")?,
            transactions: sum(metrics, "banyan_database_transactions_total")?,
        })
    }
}

fn sum(metrics: &str, name: &str) -> Option<f64> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    samples.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_sums_over_the_modules() {
        let metrics = "# TYPE banyan_database_statements_total counter\n\
            banyan_database_statements_total{module=\"orders\"} 30\n\
            banyan_database_statements_total{module=\"users\"} 12\n\
            banyan_database_statements_total_of_something_else 5\n\
            banyan_database_transactions_total{module=\"orders\"} 4\n";
        let counts = Counts {
            statements: 42.0,
            transactions: 4.0,
        };
        assert_eq!(Counts::read(metrics), Some(counts));
        assert_eq!(Counts::read("http_requests_total 1\n"), None);
    }
}
