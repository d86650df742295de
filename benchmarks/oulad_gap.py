"""Sets what most products would count beside the lift at the landmark, on the Open University's modules.

python -m benchmarks.oulad_gap
"""

import convlib as cv


def main() -> None:
    """Print both for every assessment, and the sentences that explain the gap."""
    log, plan = cv.load_dataset("oulad")
    found = cv.correlate(log, plan, macro="pass", adjust=["module", "presentation", "highest_education"])
    columns = ["micro", "naive_lift", "lift", "lift_ci_lower", "lift_ci_upper", "adjusted_lift"]
    table = found.gap.table.merge(found.table[["micro", "adjusted_lift"]].replace(found.names), on="micro")
    print(table[columns].round(3).to_string(index=False))
    print("", *found.gap_explained, sep="\n")


if __name__ == "__main__":
    main()
