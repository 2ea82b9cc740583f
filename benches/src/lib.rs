//! Measurements side by side with other replicators.
