"""Classical models of ratings: from their mean to Koren's integrated model (KDD 2008)."""
