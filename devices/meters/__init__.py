"""Energy meters: one module for each family of sensors, all behind `edgebench.core.energy`'s contract."""
