//! Answers listeners that ask for events they missed.
