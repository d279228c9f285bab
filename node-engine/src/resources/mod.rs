//! What the worker has and what its instances use.

pub mod instances;
pub mod machine;
