# Completion of libminidl's programs for bash: the flags that --help lists, the values that it names, else files.
_minidl() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} help values
  help=$("${COMP_WORDS[0]}" --help 2>/dev/null)
  if [[ $current == = ]]; then
    current=
  elif [[ $previous == = ]]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  values=$(sed -n "s/^ *$previous \([^ ]*|[^ ]*\).*/\1/p" <<<"$help")
  if [[ -n $values ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${values//|/ }" -- "$current")
  elif [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(grep --only-matching '^ *--[a-z_]*' <<<"$help")" -- "$current")
  else
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -F _minidl train_ugatit translate_images convert_checkpoint make_demo_data
