"""Speed, measured beside a floor in the same run; ratios count, rates are of one machine on one day."""
