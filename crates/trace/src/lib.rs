//! What happened: the trace ring, its writer and its readers.
