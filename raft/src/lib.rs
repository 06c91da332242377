//! Orders commands and makes them durable: openraft, log store, snapshots, read barrier.
