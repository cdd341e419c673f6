"""Online runs (paper 7.4): agents arrive as a Poisson process; how many a second does the SLO allow?"""
