//! Throw-away servers and the real agent for tests and the demo.
