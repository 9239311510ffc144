"""Pure functions from run records to plotly figures, and to the tables that stand beside them."""
