//! Requests as hostile and as ordinary drivers lay them out.
