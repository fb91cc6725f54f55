//! Settings: each environment variable, once.
