package kmod

// Classic returns the modules of the machines that reimager was made for: disks on
// SATA and PATA, ext4, the FAT of an EFI system partition, and USB storage.
func Classic() []Want {
	return join(
		required("ahci", "ata_generic", "ata_piix", "sd_mod", "sr_mod", "ext4", "usb_storage"),
		// Parts of the above, which bring them in where they are modules of their own.
		optional("libata", "crc_t10dif", "jbd2", "mbcache"),
		// usb_storage sees no disk without its host controller. ehci comes before its
		// companions, as their soft dependencies ask.
		onDemand("ehci_pci", "xhci_pci", "uhci_hcd", "ohci_pci"),
		// An EFI system partition.
		onDemand("vfat"),
		watchdogs(),
	)
}

// watchdogs are those that hardware asks for by itself, with the drivers (lpc_ich,
// i2c_i801) that make iTCO_wdt's device known. Not ib700wdt and its like, which find
// themselves on any machine, nor softdog, which watches nothing that PID 1 does not.
func watchdogs() []Want {
	return onDemand("iTCO_wdt", "lpc_ich", "i2c_i801", "wdat_wdt", "i6300esb", "sp5100_tco", "hpwdt")
}

// AllStorage returns Classic and everything else that is likely to carry a root
// filesystem: loaded only where the hardware or a mount asks for it.
func AllStorage() []Want {
	return join(
		Classic(),
		onDemand("nvme", "vmd", "uas", "isofs"),
		// virtual machines
		onDemand("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "hv_storvsc", "vmw_pvscsi",
			"xen_blkfront", "xen_scsifront"),
		// eMMC and SD cards
		onDemand("mmc_block", "sdhci_pci", "sdhci_acpi", "rtsx_pci_sdmmc", "rtsx_usb_sdmmc", "via_sdmmc",
			"cb710_mmc", "tifm_sd", "ufshcd_pci"),
		// SATA
		onDemand("acard_ahci", "pdc_adma", "sata_inic162x", "sata_mv", "sata_nv", "sata_promise", "sata_qstor",
			"sata_sil", "sata_sil24", "sata_sis", "sata_svw", "sata_sx4", "sata_uli", "sata_via", "sata_vsc"),
		// PATA; not pata_legacy and its like, which probe ports without being asked
		onDemand("pata_acpi", "pata_ali", "pata_amd", "pata_artop", "pata_atiixp", "pata_atp867x", "pata_cmd64x",
			"pata_efar", "pata_hpt366", "pata_hpt37x", "pata_hpt3x2n", "pata_it8213", "pata_it821x", "pata_jmicron",
			"pata_marvell", "pata_mpiix", "pata_netcell", "pata_ninja32", "pata_ns87410", "pata_ns87415",
			"pata_oldpiix", "pata_pdc2027x", "pata_pdc202xx_old", "pata_rdc", "pata_rz1000", "pata_sch",
			"pata_serverworks", "pata_sil680", "pata_sis", "pata_triflex", "pata_via"),
		// SCSI, SAS and RAID controllers
		onDemand("megaraid_sas", "megaraid_mbox", "mpt3sas", "mpt2sas", "mpi3mr", "mptsas", "mptspi", "aacraid",
			"hpsa", "smartpqi", "cciss", "arcmsr", "isci", "pm80xx", "mvsas", "mvumi", "aic94xx", "aic79xx", "aic7xxx",
			"3w_9xxx", "3w_sas", "3w_xxxx", "sym53c8xx", "BusLogic", "am53c974", "dc395x", "initio", "esas2r", "hptiop",
			"ips", "ipr", "pmcraid", "stex", "myrb", "myrs", "mtip32xx", "rsxx"),
		// filesystems and what lies between them and the disk
		onDemand("xfs", "btrfs", "f2fs", "dm_mod"),
		onDemand("nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"),
	)
}

// impliedSoftDeps returns what module asks the kernel for by request_module() when
// it is used, where modules.softdep does not say it, or not in every release. An
// initrd has no modprobe that the kernel could call.
func impliedSoftDeps(module string) []string {
	switch module {
	case "fat":
		// fs/fat/inode.c: load_nls() of codepage and iocharset, with the defaults of
		// FAT_DEFAULT_CODEPAGE and FAT_DEFAULT_IOCHARSET as distributions set them.
		return []string{"nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"}
	case "ext4", "jbd2", "libcrc32c", "btrfs", "f2fs":
		// crypto_alloc_shash("crc32c") at mount; not every release has it as MODULE_SOFTDEP.
		return []string{"crypto-crc32c"}
	case "crc_t10dif":
		return []string{"crct10dif"}
	}
	return nil
}

func required(names ...string) []Want { return wants(Want{}, names) }
func optional(names ...string) []Want { return wants(Want{Optional: true}, names) }
func onDemand(names ...string) []Want { return wants(Want{Optional: true, OnDemand: true}, names) }

func wants(like Want, names []string) []Want {
	list := make([]Want, 0, len(names))
	for _, name := range names {
		like.Name = name
		list = append(list, like)
	}
	return list
}

func join(lists ...[]Want) []Want {
	var all []Want
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
