package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completionScripts hold, by shell, what makes it ask this program for the words that can follow.
var completionScripts = map[string]string{
	"bash": `_hakobune() {
  local cur="${COMP_WORDS[COMP_CWORD]}"
  local words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  if [[ "$cur" == -* ]]; then words+=("$cur"); fi
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$cur"))
}
complete -o default -F _hakobune hakobune
`,
	"zsh": `#compdef hakobune
_hakobune() {
  local -a opts
  opts=("${(@f)$("${words[@]:0:#words[@]-1}" --generate-bash-completion 2>/dev/null)}")
  if [[ -n "$opts[1]" ]]; then _describe 'values' opts; else _files; fi
}
compdef _hakobune hakobune
`,
	"fish": `complete -c hakobune -f -a '(eval (commandline -opc) --generate-bash-completion 2>/dev/null | string replace ":" \t)'
`,
}

func (p *program) completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for bash, zsh or fish",
		ArgsUsage: "SHELL",
		Description: `For bash:  hakobune completion bash > /etc/bash_completion.d/hakobune
For zsh:   hakobune completion zsh > "${fpath[1]}/_hakobune"
For fish:  hakobune completion fish > ~/.config/fish/completions/hakobune.fish`,
		Action: func(c *cli.Context) error {
			shell, err := one(c, "a shell: bash, zsh or fish")
			if err != nil {
				return err
			}
			script, ok := completionScripts[shell]
			if !ok {
				return usage("there is no completion for the shell %q", shell).hint("there is one for bash, zsh and fish")
			}
			fmt.Fprint(p.out, script)
			return nil
		},
	}
}
