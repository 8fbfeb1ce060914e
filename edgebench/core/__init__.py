"""What every room may know: types, errors, units, statistics, registry, hashing. Imports no room."""
