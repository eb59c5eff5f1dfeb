package config

// Where imagebuild puts things in the initrd, and init finds them.
const (
	InitPath          = "/init"
	FilePath          = "/etc/reimager/reimager.toml"
	RetentionListPath = "/etc/reimager/retentionlist"
	KeyDir            = "/etc/reimager/keys"
	ModuleDir         = "/lib/modules/reimager"
	ModuleIndexPath   = ModuleDir + "/index"
)
