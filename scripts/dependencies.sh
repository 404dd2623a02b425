#!/usr/bin/env bash
# What the shop is built of: whether it may be used, and what it is.
#
#   scripts/dependencies.sh check        advisories, licences and sources of all dependencies, by the rules of deny.toml
#   scripts/dependencies.sh sbom FILE    writes a software bill of materials of the binary banyan (CycloneDX 1.5, JSON)
#
# Tools that are missing are built into target/tools. Advisories come from https://github.com/rustsec/advisory-db or, where it cannot be reached, from
# the copy in security/; its date is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
deny_version=0.20.2
cyclonedx_version=0.5.9

# install_tool NAME VERSION: quickly rather than optimised.
install_tool() {
  local home=$PWD/target/tools/$1-$2
  if [ ! -x "$home/bin/$1" ]; then
    echo "building $1 $2" >&2
    cargo install --quiet --locked --debug --root "$home" "$1@$2"
  fi
  PATH="$home/bin:$PATH"
}

# The copy of the advisories, as the git repository that cargo-deny expects.
unpack_advisories() {
  local home=$1 date
  rm -rf "$home"
  mkdir -p "$home"
  tar -xJf security/advisory-db.tar.xz -C "$home"
  date=$(date -u -r "$home/support.toml" +%Y-%m-%dT%H:%M:%SZ)
  git -C "$home" init --quiet
  git -C "$home" add --all
  GIT_COMMITTER_DATE=$date git -C "$home" -c user.name=advisory-db -c user.email=advisory-db@banyan.example commit --quiet --no-gpg-sign --date "$date" --message "as of $date"
  touch -d "$date" "$home/.git/FETCH_HEAD"
  echo "github.com cannot be reached: advisories as of $date" >&2
}

case "${1:-}" in
  check)
    install_tool cargo-deny "$deny_version"
    offline=()
    if ! timeout 60 cargo deny fetch db >/dev/null 2>&1; then
      # The name is cargo-deny's for the default database.
      unpack_advisories target/advisories/advisory-db-3157b0e258782691
      # That applies to everything, so the packages must be here.
      cargo fetch --quiet --locked
      offline=(--offline)
    fi
    cargo deny "${offline[@]}" check
    ;;
  sbom)
    out=${2:?the file to write}
    install_tool cargo-cyclonedx "$cyclonedx_version"
    # It writes one file beside the manifest of each member of the workspace.
    cargo cyclonedx --quiet --manifest-path app/Cargo.toml --format json --spec-version 1.5 --override-filename banyan-sbom
    mv app/banyan-sbom.json "$out"
    find . -name banyan-sbom.json -not -path './target/*' -delete
    ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
