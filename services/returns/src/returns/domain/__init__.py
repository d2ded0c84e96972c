"""The returns core: policies, what was bought and delivered, eligibility, returns and their money, claims. Pure."""
