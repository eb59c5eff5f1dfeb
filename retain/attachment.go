package retain

import "strings"

// attachmentDir is where an archive has what is no file of the machine. It is never
// put back; whoever unpacks the archive with tar finds it there.
const attachmentDir = ".reimager"

// attachment is data that travels with the archive, in front of its files.
type attachment struct {
	name string
	data []byte
}

// Attach puts data in front of the archive, under a name of its own. Owners and modes
// are as for a secret.
func (p *Plan) Attach(name string, data []byte) {
	p.attachments = append(p.attachments, attachment{name, data})
	p.ArchiveBytes += 4*tarBlock + blocks(int64(len(data)))
}

func (a attachment) appendTo(out []byte) []byte {
	h := header{flag: flagFile, name: attachmentDir + "/" + a.name, mode: 0o600, size: int64(len(a.data)), stored: int64(len(a.data))}
	out = append(appendHeader(out, &h), a.data...)
	return appendPadding(out, h.stored)
}

func isAttachment(rel string) bool {
	return rel == attachmentDir || strings.HasPrefix(rel, attachmentDir+"/")
}

// attached tells whether an archive's name is that of an attachment.
func attached(name string) bool {
	if !strings.Contains(name, attachmentDir) {
		return false
	}
	rel, err := beneath(name)
	return err == nil && isAttachment(rel)
}
