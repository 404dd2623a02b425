# The modules of the shop, in the order in which they start: the names in the table of app/src/shop.rs. Sourced by scripts, not run.
#
# The test `architecture::the_scripts_know_the_modules` compares the list with the compiled table.
MODULES=$(sed -n 's/^        name: "\([a-z0-9]*\)",$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../../app/src/shop.rs" | tr '\n' ' ')
readonly MODULES="${MODULES% }"
[ -n "$MODULES" ] || { echo "scripts/lib/modules.sh: there is no module in app/src/shop.rs" >&2; exit 1; }
