"""How far the core's policy is from the optimum: real stays, virtual time, a clairvoyant upper bound."""
