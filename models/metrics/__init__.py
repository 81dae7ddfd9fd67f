"""Image metrics: PSNR, SSIM, Inception features, Frechet distance."""
