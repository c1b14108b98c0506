"""One clean set out of several sources: filters, decontamination, duplicates, mixture, split, report."""
