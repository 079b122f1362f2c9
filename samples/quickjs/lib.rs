//! Nothing. A package must have some target.
