# Completion of libminidl's programs for fish: the flags that --help lists, the values that it names, else files.
set --local program (string replace .fish '' (status basename))
# Descriptions may go on in lines that begin with many spaces.
for line in ($program --help 2>/dev/null | sed -e :a -e '$!N' -e 's/ \n \{20,\}/ /' -e ta -e 's/\n \{20,\}/  /' -e ta -e P -e D)
    set --local parts (string match --regex --groups-only '^ +--([a-z_]+)(?: ([^ ]+))?  +(.*)$' -- $line)
    or continue
    switch (count $parts)
        case 2
            complete --command $program --long-option $parts[1] --description $parts[2]
        case 3
            if string match --quiet '*|*' -- $parts[2]
                complete --command $program --long-option $parts[1] --description $parts[3] --exclusive \
                    --arguments (string replace --all '|' ' ' -- $parts[2])
            else
                complete --command $program --long-option $parts[1] --description $parts[3] --require-parameter
            end
    end
end
