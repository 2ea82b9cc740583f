//! What the extension must do, one module per source file.
