//! Redis as the cache: one server, or a cluster.
