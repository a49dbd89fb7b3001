//! The client of an external facilitator (`mode = "external"`), with its pins: the edge issue
//! builds it here. Until then the configuration knows `mode = "self"` only.
