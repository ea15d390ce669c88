"""Episodes without exploration noise, and what evaluate.py makes of them."""
