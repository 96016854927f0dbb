"""Which stages run, in what order, and what is already done."""
