//! What the virtual card looks like: names, sizes and attributes.
