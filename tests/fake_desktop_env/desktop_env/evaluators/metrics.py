exact_match = length = infeasible = None
