//! A software IAA.
