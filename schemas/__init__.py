"""What must agree between two programs, or between today and next year: records, geometry, recipes. No torch."""
